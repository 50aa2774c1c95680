"""A whole training step over the bare matrix products of the same shapes, and its memory.

    python -m benchmarks.step_time [--widths 1024 2048] [--batches 256 1024] [--json FILE]
    python -m benchmarks.step_time --device cuda --widths 64 --exponent 2 --depth 8 --batches 4096 \\
        --precisions tf32 bf16

The limit is three products per layer and step (two for the first layer, whose input needs no gradient):
forward, backward, weight gradient. Target: 1.15 times that on a CPU for widths from 1024 and batches from
256; on a GPU three quarters of the rate. Memory is the peak growth of a separate process over the weights,
the inputs and the activations h_k, z_k that a step must hold, without the matrix library's own buffers;
target for the fused step: 1.1.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
import torch.nn.functional as F

from benchmarks.harness import Figure, Report, paired
from scaled_sgd import DepthwiseScaling, HomogeneousMLP, ScaledSGD
from scaled_sgd.core.losses import get_loss
from scaled_sgd.core.products import NARROW
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.step import Taken, take_step
from scaled_sgd.steps.update import Update

LR = 1e-6
LIMIT = "bare products"
GPU_SHARE = 0.75
"""Fraction of the rate of bare products that a step should reach on a GPU."""


@dataclass(frozen=True)
class Case:
    """A network and its settings."""

    width: int
    exponent: float
    depth: int
    batch: int
    device: str
    precision: str

    @property
    def factors(self) -> torch.dtype | None:
        return NARROW if self.precision == "bf16" else None

    def network(self) -> HomogeneousMLP:
        return HomogeneousMLP(
            784 if self.exponent else self.width,
            10,
            depth=self.depth,
            base_width=self.width,
            width_exponent=self.exponent,
            activation="abs",
            seed=0,
            device=self.device,
        )

    def minibatch(self) -> tuple[torch.Tensor, torch.Tensor]:
        in_features = 784 if self.exponent else self.width
        x = torch.randn(self.batch, in_features, device=self.device)
        return x, torch.randint(10, (self.batch,), device=self.device)


def bare_products(case: Case, *, wait: bool = True) -> Callable[[], None]:
    """The products of one step, into preallocated tensors; they may be left running on a device."""
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    where: dict[str, Any] = {"device": case.device, "dtype": dtype}
    layers = []
    for k, (m_in, m_out) in enumerate(pairwise(case.network().widths)):
        h, W = torch.randn(case.batch, m_in, **where), torch.randn(m_out, m_in, **where)
        z, G = torch.randn(case.batch, m_out, **where), torch.empty_like(W)
        layers.append((h, W, z, G, torch.empty_like(z), torch.empty_like(h) if k else None))

    def run() -> None:
        for h, W, _, _, out, _ in layers:
            torch.mm(h, W.T, out=out)
        for h, W, z, G, _, below in reversed(layers):
            if below is not None:
                torch.mm(z, W, out=below)
            torch.mm(z.T, h, out=G)
        if wait:
            synchronize(case.device)

    return run


def steps(case: Case) -> dict[str, Callable[[], None]]:
    """One training step of each kind, each on its own network."""
    x, y = case.minibatch()
    fused = step_by_hand(case.network(), x, y, factors=case.factors)

    def by_hand() -> None:
        fused()
        synchronize(case.device)

    return {"autograd + ScaledSGD": step_by_autograd(case, case.network(), x, y), "fused step": by_hand}


def step_by_autograd(
    case: Case, model: HomogeneousMLP, x: torch.Tensor, y: torch.Tensor
) -> Callable[[], None]:
    optimizer = ScaledSGD(model, LR)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16"):
            f = model(x)
        F.cross_entropy(f.float(), y).backward()
        optimizer.step()
        synchronize(case.device)

    return step


def step_by_hand(
    model: HomogeneousMLP,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    lr: float = LR,
    factors: torch.dtype | None = None,
) -> Callable[[], Taken]:
    scale = DepthwiseScaling(model).measure_elsewhere().direction
    options = {"loss": get_loss("cross_entropy"), "direct": scale, "update": Update(lr)}
    return partial(take_step, Partition.of(model, factors=factors), x, y, **options)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """Peak resident memory of this process since it started (Linux)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024


def peak(kind: str, width: int, batch: int, found: "mp.SimpleQueue[float]") -> None:
    """Peak memory growth over a few steps, weights included, divided by what must be held."""
    h, W = torch.ones(batch, width), torch.ones(width, width)
    W.addmm_((h @ W).T, h)
    del h, W
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to the current resident size
    before = peak_bytes()
    case = Case(width, 0.0, 4, batch, "cpu", "no")
    model = case.network()
    x, y = case.minibatch()
    step = step_by_hand(model, x, y) if kind == "fused step" else step_by_autograd(case, model, x, y)
    for _ in range(3):
        step()
    grown = peak_bytes() - before
    weights = sum(p.numel() for p in model.parameters())
    activations = batch * (width + 2 * sum(model.widths[1:]))
    found.put(grown / (4 * (weights + activations)))


def memory(width: int, batch: int) -> dict[str, float]:
    """Peaks of both kinds of step, each in a fresh process."""
    # Large blocks return to the system when freed, so that the resident size counts live memory only.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "262144"
    ratios = {}
    for kind in ("autograd + ScaledSGD", "fused step"):
        queue: mp.SimpleQueue[float] = mp.get_context("spawn").SimpleQueue()
        mp.spawn(_peak, (kind, width, batch, queue), nprocs=1, join=True)
        ratios[kind] = queue.get()
    return ratios


def _peak(_rank: int, kind: str, width: int, batch: int, queue: "mp.SimpleQueue[float]") -> None:
    peak(kind, width, batch, queue)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument(
        "--exponent", type=float, default=0.0, help="0: even widths; 2: widths m·k² of base m"
    )
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--precisions", nargs="+", default=["no"], choices=["no", "tf32", "bf16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    report = Report("step_time", "the bare matrix products of the same shapes")
    most = 1.15 if options.device == "cpu" else 1 / GPU_SHARE
    for width, batch, precision in product(options.widths, options.batches, options.precisions):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        case = Case(width, options.exponent, options.depth, batch, options.device, precision)
        found = paired({LIMIT: bare_products(case)} | steps(case), unit=LIMIT, rounds=options.rounds)
        figures = {
            name: figure if name == LIMIT else replace(figure, most=most) for name, figure in found.items()
        }
        report.add(asdict(case), figures)
    if options.device == "cpu":
        held = Report("step_memory", "weights and activations")
        peaks = {kind: Figure(ratio) for kind, ratio in memory(4096, 256).items()}
        peaks["fused step"] = replace(peaks["fused step"], most=1.1)
        held.add({"width": 4096, "batch": 256, "depth": 4}, peaks)
        report.tables += [table | {"limit": held.limit} for table in held.tables]
    report.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
