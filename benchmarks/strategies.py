"""What each strategy of ``sharding.strategy`` holds and moves, on 1, 2 and 4 processes of this machine.

    python -m benchmarks.strategies [--strategies ddp fsdp2 …] [--processes 1 2 4] [--json FILE]

Memory is measured: the largest resident size of any process during steps (VmHWM) less that of the same
process before the network is made. So is traffic: what the loopback interface sent, over steps and processes;
nothing else may use it meanwhile, so give the benchmark one of its own:

    unshare -rn sh -c 'ip link set lo up && python -m benchmarks.strategies'

Beside each stands what theory says: weights, gradients and momentum held, and bytes sent by ring collectives.
Four to eight minutes. Times on one machine say nothing of a cluster.
"""

import argparse
import contextlib
import importlib.util
import io
import itertools
import json
import os
import socket
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.harness import write_json
from scaled_sgd.data import rank_rows
from scaled_sgd.losses import get_loss
from scaled_sgd.parameterization import count_weights, width_pattern
from scaled_sgd.parsing import parse
from scaled_sgd.strategies import STRATEGIES
from scaled_sgd.strategies.build import build_strategy
from scaled_sgd.strategies.choice import ZERO, World, choose
from scaled_sgd.world import create_accelerator

IN_FEATURES, OUT_FEATURES, MIB = 784, 10, 2**20


@dataclass(frozen=True)
class Load:
    """What is trained, float32 with momentum."""

    depth: int
    base_width: int
    width_exponent: float
    batch: int
    steps: int

    @property
    def widths(self) -> tuple[int, ...]:
        """(m_0..m_l)."""
        return width_pattern(
            IN_FEATURES,
            OUT_FEATURES,
            depth=self.depth,
            base_width=self.base_width,
            exponent=self.width_exponent,
        )

    @property
    def weight_bytes(self) -> int:
        """P."""
        return 4 * count_weights(self.widths)


def held(strategy: str, processes: int, load: Load) -> float:
    """Bytes of weights W, gradients G, momentum V and, with ZeRO, masters M that a process keeps."""
    copies = {
        "ddp": 3.0,
        "zero1": 2 + 2 / processes,  # W G | M V
        "zero2": 1 + 3 / processes,  # W | G M V
        "zero3": 4 / processes,
    }
    return copies.get(strategy, 3 / processes) * load.weight_bytes


def sent(strategy: str, processes: int, load: Load) -> float:
    """Bytes that a process sends in a step, by ring collectives."""
    P = load.weight_bytes
    tensor = {"tensor": processes, "fsdp2+tensor": 2 if processes > 1 else 1}.get(strategy, 1)
    data = processes // tensor
    _, *hidden, outputs = load.widths
    # Activations forth and their gradients back; the outputs forth only.
    signals = 4 * load.batch / data * (2 * sum(hidden) + outputs) * (tensor - 1) / tensor
    if strategy == "tensor":
        return signals
    passes = 3 if strategy in ("fsdp2", "fsdp2+tensor", "zero3") else 2
    return signals + passes * (data - 1) / data * P / tensor


def process(rank: int, strategy: str, processes: int, load: Load, port: int, folder: str) -> None:
    """Train some steps; leave the figures of this process in the folder."""
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figures = measure(strategy, load)
    Path(folder, f"rank-{rank}").write_text(json.dumps(figures))
    if dist.is_initialized():
        dist.destroy_process_group()


def measure(strategy: str, load: Load) -> dict[str, float]:
    """Memory, traffic and time of this process's steps. Collective."""
    config = parse(
        [
            f"--model.depth={load.depth}",
            f"--model.base_width={load.base_width}",
            f"--model.width_exponent={load.width_exponent}",
            f"--optim.batch_size={load.batch}",
            "--optim.momentum=0.9",
            "--run.device=cpu",
            f"--sharding.strategy={strategy}",
        ]
    )
    accelerator = create_accelerator(config)
    config = replace(config, sharding=choose(config.sharding, World.of(accelerator), 0))
    if strategy in ZERO:
        import deepspeed  # noqa: F401
    barrier()
    idle = status("VmRSS")
    built = build_strategy(config, accelerator, IN_FEATURES, OUT_FEATURES)
    start = status("VmHWM") - idle
    generator = torch.Generator().manual_seed(0)
    rows = rank_rows(load.batch, built.data.rank, built.data.size)
    x = torch.randn(load.batch, IN_FEATURES, generator=generator)[rows]
    y = torch.randint(OUT_FEATURES, (load.batch,), generator=generator)[rows]
    loss = get_loss("cross_entropy")

    def step() -> None:
        built.zero_grad()
        with built.microbatch(last=True):
            losses = loss.value(built.forward(x), y).sum()
            built.backward(losses * (built.data.size / load.batch), last=True)
        built.step(1e-3)

    for _ in range(2):
        step()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    barrier()
    before, seconds = loopback(), []
    barrier()
    for _ in range(load.steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    barrier()
    moved = (loopback() - before) / load.steps
    return {
        "start": start,
        "peak": status("VmHWM") - idle,
        "moved": moved,
        "seconds": statistics.median(seconds),
    }


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


def run(strategy: str, processes: int, load: Load, port: int) -> dict[str, Any]:
    """The figures of one strategy, per process: the largest memory, the mean traffic."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(process, (strategy, processes, load, port, folder), nprocs=processes, join=True)
        of_ranks = [json.loads(Path(folder, f"rank-{rank}").read_text()) for rank in range(processes)]
    worst = {key: max(figures[key] for figures in of_ranks) for key in of_ranks[0]}
    return {
        "strategy": strategy,
        "processes": processes,
        "start_mib": worst["start"] / MIB,
        "peak_mib": worst["peak"] / MIB,
        "held_in_theory_mib": held(strategy, processes, load) / MIB,
        "sent_mib": worst["moved"] / processes / MIB,
        "sent_in_theory_mib": sent(strategy, processes, load) / MIB,
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
    default = [name for name in STRATEGIES if has_deepspeed or name not in ZERO]
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=default)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--base-width", type=int, default=64)
    parser.add_argument("--width-exponent", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    # Large blocks go back to the system when they are freed, so that the resident size is what lives.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "262144", "OMP_NUM_THREADS": "1"}
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # a loopback of one's own has no names
    load = Load(options.depth, options.base_width, options.width_exponent, options.batch, options.steps)
    print(
        f"{' × '.join(map(str, load.widths))}, {load.weight_bytes / MIB:.1f} MiB of weights, "
        f"batch {load.batch}, float32, momentum\n\nMiB of a process:\n"
        f"{'strategy':<13}{'processes':>9}{'start':>8}{'peak':>8}{'(held)':>8}{'sent':>8}{'(theory)':>9}"
        f"{'ms a step':>11}"
    )
    results = []
    for strategy, processes in itertools.product(options.strategies, options.processes):
        found = run(strategy, processes, load, free_port())
        results.append(found)
        print(
            f"{strategy:<13}{processes:>9}{found['start_mib']:>8.1f}{found['peak_mib']:>8.1f}"
            f"{found['held_in_theory_mib']:>8.1f}{found['sent_mib']:>8.1f}{found['sent_in_theory_mib']:>9.1f}"
            f"{1000 * found['seconds']:>11.0f}",
            flush=True,
        )
    write_json(options.json, {"load": asdict(load) | {"widths": load.widths}, "results": results})
    return 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
