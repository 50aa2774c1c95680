"""Cost of every registered quantity of a run's diagnostics, in gradients of the same minibatch.

    python -m benchmarks.quantities [--shape 32,7,256] [--rounds 3] [--only costs|runs]
        [--names sharpness taylor] [--json results.json]

One thread, float32, cross-entropy, by processor time. ``first``: of a run's first measurement, with signals.
``later``: after a step of plain SGD since the last one, from whose eigenvectors searches start. Then whole
runs of the experiment digits with measurements every 20 steps, over the run without.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.diagnostics import gradient, problem, train
from benchmarks.harness import Figure, Report, paired
from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.config.parsing import from_dict
from scaled_sgd.data import load_data
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.registry import QUANTITIES
from scaled_sgd.diagnostics.taken import AdamState, StepTaken
from scaled_sgd.steps.direction import Direction
from scaled_sgd.study.small import engine

LR = 0.5
DIGITS: dict[str, Any] = yaml.safe_load(Path("configs/experiments/digits.yaml").read_text(encoding="utf-8"))
DEFAULT_SET, LARGER, ALL = "default set", "default set, 256 samples", "all quantities"
MEASURED = tuple(name for name in QUANTITIES if name != "central_flow")
"""All but the flows, which follow full batches in float64 and take steps of their own."""
TARGETS = {DEFAULT_SET: 2.0, ALL: 12.0}
"""Largest times that are aimed at, over the run without diagnostics."""


def costs(
    base_width: int, depth: int, samples: int, rounds: int, names: Sequence[str] = MEASURED
) -> dict[str, Figure]:
    """Gradients of each quantity alone, at first and later."""
    model, x, y = problem(base_width, depth, samples)
    train(model, x, y, 20)
    step = [-LR * g for g in gradient(model, x, y)]
    side = [1.0]

    def move() -> None:
        """A step of SGD, or the way back."""
        for p, u in zip(model.parameters(), step, strict=True):
            p.data.add_(u, alpha=side[0])
        side[0] = -side[0]

    def make(name: str) -> Observer:
        config = DiagnosticsConfig(every=1, taylor=False, sharpness=False, ranks=False, quantities=[name])
        observer = Observer(config, model, x, y, loss="cross_entropy", probe_is_all=True, say=lambda _: None)
        observer.quantities = {name: observer.quantities[name]}
        if name == "from_start":
            # The network has left its start, from which a run would have measured.
            observer.load_state_dict({"from_start.began": torch.ones(())})
        return observer

    def batch(_number: int = 0) -> Minibatch:
        return Minibatch(model, x, y, loss="cross_entropy")

    # Adam's steps are for adam_sharpness; other quantities see those of SGD.
    squares = [g.square() for g in gradient(model, x, y)]
    adam = AdamState((0.9, 0.999), 1e-8, steps=20, squares=lambda k: squares[k - 1])

    def measure(observe: Callable[[], Observer]) -> None:
        move()
        taken = StepTaken(Direction(torch.ones(model.depth, dtype=torch.float64)), LR, adam=adam)
        observe().measure(batch(), taken, batch)

    def alone() -> None:
        move()
        gradient(model, x, y)

    candidates: dict[str, Callable[[], Any]] = {"gradient": alone}
    for name in names:
        kept = make(name)
        candidates[f"{name}, first"] = partial(measure, partial(make, name))
        candidates[f"{name}, later"] = partial(measure, lambda kept=kept: kept)
    return paired(candidates, unit="gradient", rounds=rounds, clock=time.process_time)


def runs(rounds: int) -> dict[str, Figure]:
    """Time of runs on digits, over the one without diagnostics."""
    settings: dict[str, dict[str, Any]] = {
        "no diagnostics": {},
        DEFAULT_SET: {"every": 20},
        LARGER: {"every": 20, "samples": 256},
        ALL: {"every": 20, "quantities": list(MEASURED)},
    }
    data = load_data(from_dict(DIGITS).data, seed=0, quiet=True)

    def run(diagnostics: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            engine.train([from_dict(DIGITS | {"diagnostics": diagnostics})], [data], [Path(folder)])

    candidates = {name: partial(run, own) for name, own in settings.items()}
    timed = paired(candidates, unit="no diagnostics", rounds=rounds, clock=time.process_time)
    return {name: replace(f, most=TARGETS.get(name)) for name, f in timed.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="32,7,256", help="base width, depth, samples")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["costs", "runs"])
    parser.add_argument("--names", nargs="+", choices=MEASURED, default=MEASURED, help="those of costs")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = Report("quantities", "a gradient of the same minibatch, or the run without diagnostics")
    base_width, depth, samples = map(int, arguments.shape.split(","))
    if arguments.only != "runs":
        case = {"base width": base_width, "depth": depth, "samples": samples}
        report.add(case, costs(base_width, depth, samples, arguments.rounds, arguments.names))
    if arguments.only != "costs":
        report.add({"run": "digits"}, runs(max(1, arguments.rounds // 3)))
    report.write(arguments.json)


if __name__ == "__main__":
    main()
