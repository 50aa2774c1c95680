"""Cost of every registered quantity of a run's diagnostics, in gradients of the same minibatch.

    python -m benchmarks.quantities [--shape 32,7,256] [--rounds 1] [--only costs|runs]
        [--names sharpness taylor] [--json results.json]

One thread, float32, cross-entropy, by processor time. ``first``: of a run's first measurement, with signals.
``later``: after a step of plain SGD since the last one, from whose eigenvectors searches start. Then whole
runs of the experiment digits with measurements every 20 steps, over the runs without before and after; the
run with every quantity is divided among them. About five minutes on a quiet machine.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

from benchmarks.diagnostics import gradient, problem, train
from benchmarks.harness import Figure, Report
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
DEFAULT_SET, LARGER, EVERY = "default set", "default set, 256 samples", "every quantity"
MEASURED = tuple(name for name in QUANTITIES if name != "central_flow")
"""All but the flows, which follow full batches in float64 and take steps of their own."""
SUBSETS = {
    "every quantity but batch_spectrum, knowledge": ("batch_spectrum", "knowledge"),
    "every quantity but these and noise_stability": ("batch_spectrum", "knowledge", "noise_stability"),
}
"""What each leaves out."""
TARGETS = {DEFAULT_SET: 2.0} | dict.fromkeys(SUBSETS, 12.0)
"""Largest times that are aimed at, over the run without diagnostics."""
GRADIENTS = 5
"""Timed before and after each quantity."""


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def say(words: str) -> None:
    """Progress, at once."""
    print(words, file=sys.stderr, flush=True)


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

    def measure(observer: Observer) -> None:
        move()
        taken = StepTaken(Direction(torch.ones(model.depth, dtype=torch.float64)), LR, adam=adam)
        observer.measure(batch(), taken, batch)

    def alone() -> None:
        move()
        gradient(model, x, y)

    def unit() -> float:
        return statistics.median(seconds(alone) for _ in range(GRADIENTS))

    found: dict[str, Figure] = {}
    unit()
    for name in names:
        ratios: dict[str, list[float]] = defaultdict(list)
        times: dict[str, list[float]] = defaultdict(list)
        for _ in range(rounds):
            observer = make(name)
            before = unit()
            own = {when: seconds(partial(measure, observer)) for when in ("first", "later")}
            one = (before + unit()) / 2
            for when, taken in own.items():
                ratios[when].append(taken / one)
                times[when].append(taken)
        for when, values in ratios.items():
            spread = (min(values), max(values)) if rounds > 1 else None
            middle = statistics.median(times[when])
            found[f"{name}, {when}"] = Figure(statistics.median(values), middle, spread=spread)
            say(f"  {name}, {when}{found[f'{name}, {when}']}")
    return found


def runs() -> tuple[dict[str, Figure], dict[str, Figure]]:
    """Time of runs on digits, and of each quantity in the one with all, over those without diagnostics."""
    data = load_data(from_dict(DIGITS).data, seed=0, quiet=True)

    def run(diagnostics: dict[str, Any]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            configs = [from_dict(DIGITS | {"diagnostics": diagnostics})]
            return seconds(lambda: engine.train(configs, [data], [Path(folder)]))

    spent: dict[str, float] = defaultdict(float)
    settings: dict[str, dict[str, Any]] = {
        DEFAULT_SET: {"every": 20},
        LARGER: {"every": 20, "samples": 256},
        EVERY: {"every": 20, "quantities": list(MEASURED)},
    }
    say("  digits without diagnostics")
    run({})
    before, found, base = run({}), dict[str, Figure](), 0.0
    for name, diagnostics in settings.items():
        say(f"  digits, {name}")
        with clocked(spent if name == EVERY else defaultdict(float)):
            own = run(diagnostics)
        after = run({})
        base, before = (before + after) / 2, after
        found[name] = Figure(own / base, own, most=TARGETS.get(name))
    every = found[EVERY].seconds or 0.0
    for name, left_out in SUBSETS.items():
        own = every - sum(spent[quantity] for quantity in left_out)
        found[name] = Figure(own / base, own, most=TARGETS[name])
    dearest = sorted(spent.items(), key=lambda item: -item[1])
    return found, {name: Figure(own / base, own) for name, own in dearest}


def clocked(spent: dict[str, float]) -> Any:
    """Adds up the time of each quantity of observers that are made meanwhile."""
    make = Observer.__init__

    def made(self: Observer, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        for name, quantity in self.quantities.items():
            vars(quantity)["measure"] = partial(timed, name, quantity.measure)

    def timed(name: str, measure: Callable[..., Any], context: Any) -> Any:
        start = time.process_time()
        try:
            return measure(context)
        finally:
            spent[name] += time.process_time() - start

    return mock.patch.object(Observer, "__init__", made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="32,7,256", help="base width, depth, samples")
    parser.add_argument("--rounds", type=int, default=1)
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
        whole, parts = runs()
        report.add({"run": "digits"}, whole)
        report.add({"run": "digits, every quantity", "of it": "each"}, parts)
    report.write(arguments.json)


if __name__ == "__main__":
    main()
