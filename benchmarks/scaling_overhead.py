"""The cost of depthwise scaling per training step, relative to torch.optim.SGD(foreach=True).

    python -m benchmarks.scaling_overhead [--widths 1024 2048 4096] [--batches 256 1024] [--json FILE]

Every round runs plain, fused and hooked steps one after the other; a ratio is the median over rounds of the
ratio within a round. Targets: ScaledSGD 1.02, the hook 1.03.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch.optim import Optimizer

from benchmarks.harness import Report, paired
from scaled_sgd import DepthwiseScaling, HomogeneousMLP, ScaledSGD

DEPTH = 4


def candidates(width: int, batch: int, device: str) -> dict[str, Callable[[], None]]:
    """One training step of each kind, each on its own network."""
    x = torch.randn(batch, width, device=device)
    y = torch.randint(10, (batch,), device=device)

    def stepper(make: Callable[[HomogeneousMLP], Optimizer]) -> Callable[[], None]:
        model = HomogeneousMLP(
            width,
            10,
            depth=DEPTH,
            base_width=width,
            width_exponent=0.0,
            activation="abs",
            seed=0,
            device=device,
        )
        optimizer = make(model)

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()

        return step

    def hooked(optimizer_class: type[Optimizer]) -> Callable[[HomogeneousMLP], Optimizer]:
        def make(model: HomogeneousMLP) -> Optimizer:
            optimizer = optimizer_class(model.parameters(), lr=1e-6, foreach=True)  # type: ignore[call-arg]
            DepthwiseScaling(model, optimizer)
            return optimizer

        return make

    return {
        "SGD": stepper(lambda model: torch.optim.SGD(model.parameters(), lr=1e-6, foreach=True)),
        "ScaledSGD": stepper(lambda model: ScaledSGD(model, 1e-6)),
        "SGD + hook": stepper(hooked(torch.optim.SGD)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling_overhead", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    report = Report("scaling_overhead", "torch.optim.SGD(foreach=True)")
    for width in options.widths:
        for batch in options.batches:
            found = paired(candidates(width, batch, options.device), unit="SGD", rounds=options.rounds)
            found["ScaledSGD"] = replace(found["ScaledSGD"], most=1.02)
            found["SGD + hook"] = replace(found["SGD + hook"], most=1.03)
            report.add({"width": width, "batch": batch, "depth": DEPTH, "device": options.device}, found)
    report.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
