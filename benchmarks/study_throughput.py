"""A study of many small runs over the bare sum of their step times, on one core.

    python -m benchmarks.study_throughput [--runs 64] [--steps 300] [--depth 6] [--base-width 8] [--json FILE]

The study takes the same path as ``scaled-sgd study run --workers 1``: file, plan, run folders, configuration,
metrics, summary, final evaluation. The limit is only the fused steps of the same runs, on minibatches cut
from data in memory; they are timed right after each run, so that a busy machine slows both. Target: 1.2,
and 50 ms per run. With a GPU, stacked runs are also compared with one run at a time.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.harness import Figure, Report, paired
from scaled_sgd.config import Config
from scaled_sgd.data import Data
from scaled_sgd.parallel import Partition, Ranks
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update
from scaled_sgd.study.execution.schedule import make_schedule, run_schedule
from scaled_sgd.study.folder import StudyFolder
from scaled_sgd.study.grid import expand, read_study
from scaled_sgd.study.small.attempt import DataShelf
from scaled_sgd.study.small.engine import train, unsuited
from scaled_sgd.study.small.session import small_session

SEEDS = 4


class Bare:
    """A ``train`` that repeats the bare steps of every run and adds up their time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.outside = 0.0

    def __call__(
        self, configs: Sequence[Config], data: Sequence[Data], folders: Sequence[Path]
    ) -> Sequence[dict[str, Any]]:
        summaries = train(configs, data, folders)
        begun = time.perf_counter()
        self.seconds += bare_steps(configs[0], data[0])
        self.outside += time.perf_counter() - begun
        return summaries


def bare_steps(config: Config, data: Data) -> float:
    """Seconds of a run's fused steps only."""
    session = small_session(config, data)
    partition = Partition.of(session.strategy.network, ranks=Ranks.alone())
    updates = [Update(session.schedule(step)) for step in range(session.steps)]
    start = time.perf_counter()
    for update, batch in zip(updates, session.samples.minibatches(Ranks.alone()), strict=False):
        take_step(
            partition,
            *batch.own(),
            loss=session.loss,
            direct=session.strategy.scaling.direction,
            update=update,
            sizes=[batch.n_global],
        )
    return time.perf_counter() - start


def study_file(options: argparse.Namespace, device: str) -> dict[str, Any]:
    """Learning rates that keep every run alive, and seeds."""
    rates = -(-options.runs // SEEDS)
    return {
        "base": {
            "model": {"depth": options.depth, "base_width": options.base_width, "activation": "abs"},
            "optim": {"steps": options.steps, "batch_size": options.batch},
            "run": {"eval_every": 0, "device": device},
        },
        "axes": [
            {"optim.lr": [2 * (place + 1) / rates for place in range(rates)]},
            {"run.seed": {"range": [0, SEEDS]}},
        ],
    }


def one_core(options: argparse.Namespace) -> dict[str, Figure]:
    """Time of the study over that of its bare steps."""
    ratios, overheads, bare = [], [], Bare()
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "study.yaml")
        file.write_text(yaml.safe_dump(study_file(options, "cpu")))
        for number in range(options.rounds + 1):
            bare = Bare()
            start = time.perf_counter()
            study = read_study(file)
            runs = expand(study, DataShelf())
            folder = StudyFolder(Path(place, str(number)))
            folder.write_plan(study, runs)
            counts = run_schedule(make_schedule(study, runs, folder, unsuited), folder, bare, workers=1)
            whole = time.perf_counter() - start - bare.outside
            assert counts == {"finished": len(runs)}
            if number:  # The first round warms up.
                ratios.append(whole / bare.seconds)
                overheads.append((whole - bare.seconds) / len(runs))
    middle = len(ratios) // 2
    return {
        "bare steps": Figure(1.0, bare.seconds),
        "study": Figure(sorted(ratios)[middle], most=1.2),
        "overhead a run (s)": Figure(sorted(overheads)[middle], most=0.05),
    }


def on_gpu(options: argparse.Namespace) -> dict[str, Figure]:
    """Time of stacked runs over that of single runs."""
    with tempfile.TemporaryDirectory() as place:
        file, shelf = Path(place, "study.yaml"), DataShelf()
        file.write_text(yaml.safe_dump(study_file(options, "cuda")))
        configs = [run.config for run in expand(read_study(file), shelf)]
        data = [shelf(config.data, config.run.seed) for config in configs]
        folders = [Path(place, str(number)) for number in range(len(configs))]

        def one_by_one() -> None:
            for config, own, folder in zip(configs, data, folders, strict=True):
                train([config], [own], [folder])

        return paired(
            {"one by one": one_by_one, "together": lambda: train(configs, data, folders)},
            unit="one by one",
            rounds=options.rounds,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study_throughput", description=__doc__)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--base-width", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    case = {key: getattr(options, key) for key in ("runs", "steps", "depth", "base_width", "batch")}
    report = Report("study_throughput", "the bare sum of the steps of its runs")
    report.add(case, one_core(options))
    if torch.cuda.is_available():
        report.limit = "the same runs one by one on the GPU"
        report.add(case, on_gpu(options))
    report.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
