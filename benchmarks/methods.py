"""Whole training steps of the methods of the study `methods`, over those of νP with ``norm``.

    python -m benchmarks.methods [--shapes 64,8,256 32,8,128 …] [--rounds 7] [--json FILE]

One thread, float32, CPU time, as a run takes them: minibatch, step and, under ``optim.schedule edge``, the
measurement of c1 and c2 every fifth step. A shape is base width, depth and minibatch; inputs are 784 random
numbers, targets 10 classes. Methods take turns, five steps each, in every round; a ratio is the median over
rounds. Momentum and AdamW's moments are held where a method has them.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.directions import Shape, shape_of
from benchmarks.harness import Report, paired
from scaled_sgd.config import DataConfig
from scaled_sgd.config.parsing import from_dict
from scaled_sgd.data import Data, Resident, load_data
from scaled_sgd.parallel import Ranks
from scaled_sgd.study.small.session import small_session, stepper_of

STEPS = 5
DEFAULT: tuple[Shape, ...] = ((32, 8, 128), (64, 8, 256), (64, 8, 64), (32, 6, 256))
METHODS: dict[str, dict[str, Any]] = {
    "norm": {"scaling": {"rule": "norm"}},
    "none": {"scaling": {"rule": "none"}},
    "one normalised gradient": {"scaling": {"rule": "none"}, "optim": {"normalize": True}},
    "unit": {"scaling": {"rule": "unit"}},
    "spectral": {"scaling": {"rule": "spectral"}},
    "spectral, edge": {"scaling": {"rule": "spectral"}, "optim": {"schedule": "edge"}},
    "norm, edge": {"scaling": {"rule": "norm"}, "optim": {"schedule": "edge"}},
    "AdamW": {"scaling": {"rule": "none"}, "optim": {"optimizer": "adamw"}},
}
"""Labels and what each changes in a configuration."""


def random_data(samples: int) -> Data:
    """``samples`` random inputs with random classes, with the columns of digits."""
    x = torch.randn(samples, 784)
    drawn = Resident(x * 28 / x.norm(dim=1, keepdim=True), torch.randint(10, (samples,)))
    digits = load_data(DataConfig(), seed=0)
    return replace(digits, train=drawn, evaluation=drawn, pipeline=replace(digits.pipeline, width=784))


def steps_of(shape: Shape, method: str, data: Data) -> Callable[[], None]:
    """Takes the next ``STEPS`` steps of a run."""
    width, depth, n = shape
    values = METHODS[method]
    optim = {"lr": 1e-6, "batch_size": n, "steps": 10**6, "edge_every": STEPS} | values.get("optim", {})
    model = {"base_width": width, "depth": depth, "activation": "abs"}
    config = from_dict({"model": model, "optim": optim, "scaling": values["scaling"]})
    session = small_session(config, data)
    stepper, batches = (
        stepper_of(session),
        session.samples.minibatches(Ranks.alone(), epoch=0, start=0),
    )

    def take() -> None:
        for step in range(STEPS):
            batch = next(batches)
            session.adapt(step, batch)
            stepper.take(step, [batch], measure=False)

    return take


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument("--shapes", type=shape_of, nargs="+", default=DEFAULT, metavar="M,L,N")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report = Report("methods", "a step with norm")
    for shape in options.shapes:
        data = random_data(4 * shape[2])
        candidates = {name: steps_of(shape, name, data) for name in dict.fromkeys(["norm", *options.methods])}
        found = paired(candidates, unit="norm", rounds=options.rounds, clock=time.process_time)
        per_step = {
            name: replace(figure, seconds=figure.seconds / STEPS if figure.seconds else None)
            for name, figure in found.items()
        }
        report.add(dict(zip(("base width", "depth", "n"), shape, strict=True)), per_step)
    report.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
