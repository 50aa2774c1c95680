"""What each strategy of ``sharding.strategy`` holds and moves, measured and planned, on this machine.

    python -m benchmarks.strategies [--strategies ddp fsdp2 …] [--processes 1 2 4] [--json FILE]

Memory is measured: the largest resident size of any process during steps (VmHWM) less that of the same
process before the network is made and after it has trained a tiny one, so that what libraries keep for
themselves is not counted. So is traffic: what the loopback interface sent, over steps and processes; nothing
else may use it meanwhile, so give the benchmark one of its own:

    unshare -rn sh -c 'ip link set lo up && python -m benchmarks.strategies'

Beside each stands what :mod:`scaled_sgd.planning` predicts, and predicted over measured. Ten seconds a line.
Times on one machine say nothing of a cluster.
"""

import argparse
import contextlib
import gc
import importlib.util
import io
import itertools
import json
import logging
import os
import socket
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator

from benchmarks.harness import write_json
from scaled_sgd.config import Config
from scaled_sgd.data import rank_rows
from scaled_sgd.divergence import DivergenceWatch
from scaled_sgd.losses import get_loss
from scaled_sgd.parsing import parse
from scaled_sgd.planning import PLANNED, Cluster, Load, nominal, predict
from scaled_sgd.planning.fused import ddp_fused
from scaled_sgd.steps import Step, make_step
from scaled_sgd.strategies import Strategy
from scaled_sgd.strategies.build import build_strategy
from scaled_sgd.strategies.choice import ZERO, World, tensor_processes
from scaled_sgd.world import create_accelerator

IN_FEATURES, OUT_FEATURES, MIB, LR = 784, 10, 2**20, 1e-3


@dataclass(frozen=True)
class Work:
    """What is trained, and how: options of a run, strategy aside."""

    options: tuple[str, ...]
    processes: int
    steps: int

    def config(self, strategy: str) -> Config:
        """The configuration of a run, as the trainer would have resolved it."""
        fused = str(strategy.endswith("+fused")).lower()
        name = strategy.removesuffix("+fused")
        own = ("--run.device=cpu", f"--sharding.strategy={name}", f"--optim.fused_update={fused}")
        return parse([*self.options, *own])

    def load(self, strategy: str) -> Load:
        """What is planned for."""
        return Load.of(self.config(strategy), IN_FEATURES, OUT_FEATURES)

    @property
    def cluster(self) -> Cluster:
        """This machine."""
        return replace(nominal("cpu"), ranks=self.processes, per_machine=self.processes)


def process(rank: int, strategy: str, work: Work, port: int, folder: str) -> None:
    """Train some steps; leave the figures of this process in the folder."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if work.processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(work.processes)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(work.processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figures = measure(strategy, work)
    Path(folder, f"rank-{rank}").write_text(json.dumps(figures))
    if dist.is_initialized():
        dist.destroy_process_group()


def measure(strategy: str, work: Work) -> dict[str, Any]:
    """Memory, traffic and time of this process's steps, and what moves of layers by choice. Collective."""
    config = work.config(strategy)
    accelerator = create_accelerator(config)
    warm_up(config, accelerator)
    barrier()
    idle = status("VmRSS")
    built, step = prepared(config, accelerator, IN_FEATURES, OUT_FEATURES)
    start = status("VmHWM") - idle
    for _ in range(2):
        step()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    barrier()
    before, seconds = loopback(), []
    barrier()
    for _ in range(work.steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    barrier()
    moved = (loopback() - before) / work.steps
    return {
        "start": start,
        "peak": status("VmHWM") - idle,
        "moved": moved,
        "seconds": statistics.median(seconds),
        "exchange": built.exchange,
    }


def prepared(
    config: Config, accelerator: Accelerator, in_features: int, out_features: int
) -> tuple[Strategy, Callable[[], object]]:
    """A strategy with a step on a minibatch of random samples, of which this process holds its own alone."""
    built = build_strategy(config, accelerator, in_features, out_features)
    n, loss = config.optim.batch_size, get_loss("cross_entropy")
    step: Step = make_step(built, config.optim, loss, DivergenceWatch(built.network))
    rows = rank_rows(n, built.data.rank, built.data.size)
    x = torch.randn(rows.stop - rows.start, in_features)
    y = torch.randint(out_features, (len(x),))
    return built, lambda: step(x, y, n, LR, measure_gradient=False)


def warm_up(config: Config, accelerator: Accelerator) -> None:
    """Have libraries take what they keep: train a tiny network, multiply matrices of the shapes to come."""
    tiny = replace(config, model=replace(config.model, depth=3, base_width=8))
    built, step = prepared(tiny, accelerator, 8, 4)
    for _ in range(2):
        step()
    load = Load.of(config, IN_FEATURES, OUT_FEATURES)
    in_rows = config.optim.fused_update and built.name != "ddp"
    parts = built.data.size if in_rows else built.tensor.size
    rows = load.batch if in_rows else load.rows(built.data.size)
    kind = {"bf16": torch.bfloat16}.get(config.run.precision, getattr(torch, config.model.dtype))
    for fan_in, fan_out in itertools.pairwise(load.widths):
        h, W = torch.ones(rows, fan_in, dtype=kind), torch.ones(-(-fan_out // parts), fan_in, dtype=kind)
        delta = h @ W.T
        delta @ W
        delta.T @ h
    del built, step
    gc.collect()


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def status(key: str) -> int:
    """Bytes that Linux counts for this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def loopback() -> int:
    """Bytes sent over the loopback interface, by anyone."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[8])
    raise OSError("/proc/net/dev has no lo")


def run(strategy: str, work: Work) -> dict[str, Any]:
    """The figures of one strategy, per process: the largest memory, the mean traffic."""
    processes = work.processes
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(process, (strategy, work, free_port(), folder), nprocs=processes, join=True)
        of_ranks = [json.loads(Path(folder, f"rank-{rank}").read_text()) for rank in range(processes)]
    exchange = of_ranks[0].pop("exchange")
    worst = {key: max(figures[key] for figures in of_ranks) for key in of_ranks[0]}
    world = World(processes, processes, cuda=False, memory=0)
    load, parts = work.load(strategy), tensor_processes(work.config(strategy).sharding, world)
    planned = (
        predict(strategy, load, work.cluster, parts=parts)
        if exchange is None
        else ddp_fused(load, work.cluster, exchange)
    )
    return {
        "strategy": strategy,
        "processes": processes,
        "start_mib": worst["start"] / MIB,
        "held_planned_mib": planned.held_bytes / MIB,
        "peak_mib": worst["peak"] / MIB,
        "peak_planned_mib": planned.peak_bytes / MIB,
        "sent_mib": worst["moved"] / processes / MIB,
        "sent_planned_mib": planned.traffic.sent / MIB,
        "seconds": worst["seconds"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.strategies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    default = [name for name in PLANNED if has_deepspeed or name not in ZERO]
    parser.add_argument("--strategies", nargs="+", choices=PLANNED, default=default)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--base-width", type=int, default=64)
    parser.add_argument("--width-exponent", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--options", nargs="*", default=[], help="more of a run, such as --options=--run.seed=1"
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    # Large blocks go back to the system when they are freed, so that the resident size is what lives.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # a loopback of one's own has no names
    keys = (
        f"--model.depth={options.depth}",
        f"--model.base_width={options.base_width}",
        f"--model.width_exponent={options.width_exponent}",
        f"--optim.batch_size={options.batch}",
        "--optim.momentum=0.9",
        *options.options,
    )
    load = Work(keys, 1, options.steps).load(options.strategies[0])
    print(
        f"{' × '.join(map(str, load.widths))}, {load.weights * load.itemsize / MIB:.1f} MiB of weights, "
        f"batch {load.batch}\n\nMiB of a process:\n"
        f"{'strategy':<13}{'processes':>9}{'start':>8}{'held':>8}{'peak':>8}{'planned':>8}{'ratio':>7}"
        f"{'sent':>8}{'planned':>8}{'ratio':>7}{'ms a step':>11}"
    )
    results = []
    for strategy, processes in itertools.product(options.strategies, options.processes):
        found = run(strategy, Work(keys, processes, options.steps))
        results.append(found)
        print(
            f"{strategy:<13}{processes:>9}{found['start_mib']:>8.1f}{found['held_planned_mib']:>8.1f}"
            f"{found['peak_mib']:>8.1f}{found['peak_planned_mib']:>8.1f}{_ratio(found, 'peak'):>7.3f}"
            f"{found['sent_mib']:>8.2f}{found['sent_planned_mib']:>8.2f}{_ratio(found, 'sent'):>7.3f}"
            f"{1000 * found['seconds']:>11.0f}",
            flush=True,
        )
    write_json(options.json, {"load": asdict(load), "results": results})
    return 0


def _ratio(found: dict[str, Any], what: str) -> float:
    """Planned over measured; 1 where nothing is sent."""
    planned, measured = found[f"{what}_planned_mib"], found[f"{what}_mib"]
    return planned / measured if planned else 1.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
