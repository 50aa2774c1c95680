"""A whole training step over the bare matrix products of the same shapes, and what it holds in memory.

    python -m benchmarks.step_time [--widths 1024 2048] [--batches 256 1024] [--device cpu] [--json FILE]

The limit is three products a layer and step (two for the first layer, whose input needs no gradient):
forward, backward, weight gradient. Target: 1.15 times that on a CPU for widths from 1024 and batches from
256. Memory is the peak growth of a process of its own over the weights, the inputs and the activations h_k,
z_k that a step must hold, without what the matrix library keeps for itself; target for the fused step: 1.1.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.multiprocessing as mp
import torch.nn.functional as F

from benchmarks.harness import Figure, Report, paired
from scaled_sgd import HomogeneousMLP, ScaledSGD
from scaled_sgd.fused import Update, fused_step, scale_by
from scaled_sgd.losses import get_loss
from scaled_sgd.scaling import get_rule
from scaled_sgd.sharding import Partition

DEPTH, LR = 4, 1e-6


def network(width: int, device: str) -> HomogeneousMLP:
    return HomogeneousMLP(
        width, 10, depth=DEPTH, base_width=width, width_exponent=0.0, activation="abs", seed=0, device=device
    )


def bare_products(width: int, batch: int, device: str) -> Callable[[], None]:
    """The products of one step, into tensors that are there already."""
    widths = [width] * DEPTH + [10]
    layers = []
    for k, (m_in, m_out) in enumerate(pairwise(widths)):
        h, W = torch.randn(batch, m_in, device=device), torch.randn(m_out, m_in, device=device)
        z, G = torch.randn(batch, m_out, device=device), torch.empty_like(W)
        layers.append((h, W, z, G, torch.empty_like(z), torch.empty_like(h) if k else None))

    def run() -> None:
        for h, W, _, _, out, _ in layers:
            torch.mm(h, W.T, out=out)
        for h, W, z, G, _, below in reversed(layers):
            if below is not None:
                torch.mm(z, W, out=below)
            torch.mm(z.T, h, out=G)
        synchronize(device)

    return run


def steps(width: int, batch: int, device: str) -> dict[str, Callable[[], None]]:
    """One training step of each kind, on networks of their own."""
    x, y = torch.randn(batch, width, device=device), torch.randint(10, (batch,), device=device)
    model, fused = network(width, device), network(width, device)
    optimizer = ScaledSGD(model, LR)

    def by_autograd() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        synchronize(device)

    def by_hand() -> None:
        step_by_hand(fused, x, y)
        synchronize(device)

    return {"autograd + ScaledSGD": by_autograd, "fused step": by_hand}


def step_by_hand(model: HomogeneousMLP, x: torch.Tensor, y: torch.Tensor) -> None:
    scale = scale_by(get_rule("norm"), model)
    fused_step(Partition.of(model), x, y, loss=get_loss("cross_entropy"), scale=scale, update=Update(LR))


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """Largest resident memory of this process since it was started (Linux)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024


def peak(kind: str, width: int, batch: int, found: "mp.SimpleQueue[float]") -> None:
    """Peak growth of this process's memory over a few steps, the weights included, over what must be held."""
    h, W = torch.ones(batch, width), torch.ones(width, width)
    W.addmm_((h @ W).T, h)
    del h, W
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is resident now
    before = peak_bytes()
    model = network(width, "cpu")
    x, y = torch.randn(batch, width), torch.randint(10, (batch,))
    optimizer = None
    for _ in range(3):
        if kind == "fused step":
            step_by_hand(model, x, y)
        else:
            optimizer = ScaledSGD(model, LR) if optimizer is None else optimizer
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    grown = peak_bytes() - before
    weights = sum(p.numel() for p in model.parameters())
    activations = batch * (width + 2 * sum(model.widths[1:]))
    found.put(grown / (4 * (weights + activations)))


def memory(width: int, batch: int) -> dict[str, float]:
    """The peaks of both kinds of step, each in a fresh process."""
    # Large blocks go back to the system when they are freed, so that the resident size is what lives.
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
    """Print the tables; write them as JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    report = Report("step_time", "the bare matrix products of the same shapes")
    for width in options.widths:
        for batch in options.batches:
            candidates = {"bare products": bare_products(width, batch, options.device)}
            candidates |= steps(width, batch, options.device)
            found = paired(candidates, unit="bare products", rounds=options.rounds)
            goal = {"most": 1.15} if options.device == "cpu" else {"most": 1 / 0.75}
            for name in ("autograd + ScaledSGD", "fused step"):
                found[name] = replace(found[name], **goal)
            report.add({"width": width, "batch": batch, "depth": DEPTH, "device": options.device}, found)
    if options.device == "cpu":
        held = Report("step_memory", "weights and activations")
        peaks = {kind: Figure(ratio) for kind, ratio in memory(4096, 256).items()}
        peaks["fused step"] = replace(peaks["fused step"], most=1.1)
        held.add({"width": 4096, "batch": 256, "depth": DEPTH}, peaks)
        report.tables += [table | {"limit": held.limit} for table in held.tables]
    report.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
