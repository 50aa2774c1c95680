"""Measures memory and traffic of a strategy's steps in the processes that run them; Linux only."""

import contextlib
import gc
import io
import itertools
import json
import logging
import os
import socket
import statistics
import struct
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator

from scaled_sgd.config import Config
from scaled_sgd.config.parsing import parse
from scaled_sgd.core.losses import get_loss
from scaled_sgd.data import rank_rows
from scaled_sgd.planning import Cost, Workload, nominal, predict
from scaled_sgd.planning.choice import World, is_fused, tensor_processes
from scaled_sgd.planning.replicas import ddp_fused
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.train.accelerator import create_accelerator
from scaled_sgd.train.steps import factors_of, make_step
from scaled_sgd.train.strategies import Strategy
from scaled_sgd.train.strategies.build import Request, build_strategy

IN_FEATURES, OUT_FEATURES, LR = 784, 10, 1e-3

ENVIRONMENT = {
    # Large blocks return to the system when freed, so that the resident size counts live memory only.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""Environment variables that measured processes need at start-up."""

_BYTES_SENT = 200
"""Offset of tcpi_bytes_sent (64 bits) in the Linux ``struct tcp_info``."""


@dataclass(frozen=True)
class Work:
    """Options of a run without the strategy, the number of processes and the number of measured steps."""

    options: tuple[str, ...]
    processes: int
    steps: int = 3

    def config(self, strategy: str) -> Config:
        """The configuration of a run under a strategy; a name that ends in ``+fused`` means fused steps."""
        update = "fused" if strategy.endswith("+fused") else "autograd"
        name = strategy.removesuffix("+fused")
        own = ("--run.device=cpu", f"--sharding.strategy={name}", f"--optim.update={update}")
        # A rule that every strategy has by autograd.
        return parse(["--scaling.rule=norm", *self.options, *own])

    def workload(self, strategy: str) -> Workload:
        """The workload to plan for."""
        return Workload.of(self.config(strategy), IN_FEATURES, OUT_FEATURES)

    def planned(self, strategy: str, exchange: Sequence[bool] | None = None) -> Cost:
        """The predicted cost, given what a run chose to exchange for each layer."""
        work, count, config = self.workload(strategy), self.processes, self.config(strategy)
        hardware = replace(nominal("cpu"), ranks=count, per_machine=count)
        if exchange is not None:
            return ddp_fused(work, hardware, exchange)
        name = config.sharding.strategy
        parts = tensor_processes(config.sharding, World(count, count, cuda=False, memory=0))
        return predict(name, work, hardware, fused=is_fused(config, name), parts=parts)


@dataclass(frozen=True)
class Figures:
    """Measurements of one process.

    Attributes:
        start: peak bytes until the network was ready.
        peak: peak bytes during steps.
        sent: bytes sent per step.
        seconds: median step time.
        exchange: what is exchanged for each layer, where that was chosen.
    """

    start: int
    peak: int
    sent: float
    seconds: float
    exchange: list[bool] | None


def run(strategies: Sequence[str], work: Work) -> dict[str, Figures]:
    """Measure strategies one after another in the same processes: largest peak of any process, mean traffic.

    ZeRO must be the only strategy, since it needs its own launch. Set :data:`ENVIRONMENT` first.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (strategies, work, free_port(), folder)
        mp.spawn(_process, arguments, nprocs=work.processes, join=True)
        of_ranks = [
            json.loads(Path(folder, f"rank-{rank}").read_text(encoding="utf-8"))
            for rank in range(work.processes)
        ]
    return {name: _worst([Figures(**figures[name]) for figures in of_ranks]) for name in strategies}


def _worst(figures: list[Figures]) -> Figures:
    start, peak, seconds = (max(getattr(one, key) for one in figures) for key in ("start", "peak", "seconds"))
    return Figures(start, peak, statistics.mean(one.sent for one in figures), seconds, figures[0].exchange)


def _process(rank: int, strategies: Sequence[str], work: Work, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if work.processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(work.processes)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(work.processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerator = create_accelerator(work.config(strategies[0]))
        figures = {name: vars(measure(work.config(name), accelerator, work.steps)) for name in strategies}
    Path(folder, f"rank-{rank}").write_text(json.dumps(figures), encoding="utf-8")
    if dist.is_initialized():
        dist.destroy_process_group()


def measure(config: Config, accelerator: Accelerator, steps: int) -> Figures:
    """Measure memory, traffic and time of this process's steps. Collective."""
    warm_up(config, accelerator)
    barrier()
    idle = status("VmRSS")
    forget_peak()
    built, step = prepared(config, accelerator, IN_FEATURES, OUT_FEATURES)
    start = status("VmHWM") - idle
    for _ in range(2):
        step(measure=False)
    forget_peak()
    barrier()
    before, seconds = bytes_sent(), []
    for _ in range(steps):
        began = time.perf_counter()
        step(measure=False)
        seconds.append(time.perf_counter() - began)
    barrier()  # data that the sockets have accepted may not have been sent yet
    moved = (bytes_sent() - before) / steps
    step(measure=True)
    exchange = None if built.exchange is None else list(built.exchange)
    return Figures(start, status("VmHWM") - idle, moved, statistics.median(seconds), exchange)


def prepared(
    config: Config, accelerator: Accelerator, in_features: int, out_features: int
) -> tuple[Strategy, Callable[..., object]]:
    """A strategy and a step on random samples; this process holds the part that the step needs.

    ``measure``: whether the step also measures what logged steps do.
    """
    built = build_strategy(Request(config, accelerator, in_features, out_features))
    n, loss = config.optim.batch_size, get_loss("mse" if config.loss == "mse" else "cross_entropy")
    watch = DivergenceWatch(built.network.depth, built.device)
    step = make_step(built, config.optim, loss, watch, factors=factors_of(config))
    rows = slice(0, n) if step.whole else rank_rows(n, built.data.rank, built.data.size)
    x = torch.randn(rows.stop - rows.start, in_features)
    y = torch.randint(out_features, (len(x),))
    targets = torch.nn.functional.one_hot(y, out_features).float() if loss.name == "mse" else y
    return built, lambda *, measure: step(x, targets, n, LR, measure=measure)


def warm_up(config: Config, accelerator: Accelerator) -> None:
    """Make libraries allocate what they keep: train a tiny network, multiply matrices of the later shapes."""
    tiny = replace(config, model=replace(config.model, depth=3, base_width=8))
    built, step = prepared(tiny, accelerator, 8, 4)
    for _ in range(2):
        step(measure=True)
    work = Workload.of(config, IN_FEATURES, OUT_FEATURES)
    in_rows = config.optim.update == "fused" and built.name != "ddp"
    parts = built.data.size * built.tensor.size if in_rows else built.tensor.size
    rows = work.batch if in_rows else work.rows(built.data.size)
    kind = torch.bfloat16 if config.run.precision == "bf16" else getattr(torch, config.model.dtype)
    for fan_in, fan_out in itertools.pairwise(work.widths):
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
    """A memory counter of this process, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def forget_peak() -> None:
    """Reset VmHWM."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def bytes_sent() -> int:
    """Bytes sent so far by all TCP connections of this process, with retransmissions, without headers."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as connection:
                found = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_SENT + 8)
        except OSError:
            continue  # not a TCP socket
        total += struct.unpack_from("Q", found, _BYTES_SENT)[0] if len(found) >= _BYTES_SENT + 8 else 0
    return total


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
