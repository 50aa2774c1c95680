"""Does depthwise scaling train beyond the edge of stability? Three tables on the embedded digits.

    python -m scaled_sgd.study.beyond_edge edge transfer rules --out docs/results/beyond_edge

Every finished sweep is appended to ``<out>/<table>.jsonl`` and never repeated, so a killed study goes on
where it was. The tables are written to ``<out>/<table>.md``.
"""

import argparse
import json
import math
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from scaled_sgd.parameterization import count_weights, width_pattern
from scaled_sgd.records import finite
from scaled_sgd.study.digits_engine import RunResult, RunSpec, build, gradient_norm, initial_edge, probe, run
from scaled_sgd.study.tables import read_rows, write_summary, write_table

LOSSES = ("cross_entropy", "mse")
MAX_WEIGHTS = 2e7
"""Larger networks take minutes to hours a run on a CPU."""

_MAX_RUNGS = 13


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in learning rate and seed alone.

    Attributes:
        label: what the tables call it.
        spec: the runs, but for learning rate and seed.
        seeds: how many.
        rates: learning rates; empty for powers of 2 from an eighth of the initial edge 2/λ_0 until every
            seed fails.
        clip: clip the gradient at its norm at step 0.
    """

    label: str
    spec: RunSpec
    seeds: int = 3
    rates: tuple[float, ...] = ()
    clip: bool = False

    @property
    def key(self) -> str:
        """The same for the same runs."""
        return json.dumps(asdict(self))


def execute(sweep: Sweep) -> dict[str, Any]:
    """All runs of a sweep, as a JSON object."""
    torch.set_num_threads(1)
    spec = sweep.spec
    if sweep.clip:
        spec = replace(spec, clip_norm=gradient_norm(build(spec), *probe(spec), spec.loss))
    edge = initial_edge(spec)
    rates = sweep.rates or tuple(
        2.0 ** (math.floor(math.log2(edge)) + rung - 3) for rung in range(_MAX_RUNGS)
    )
    runs: list[dict[str, Any]] = []
    for lr in rates:
        results = [run(replace(spec, lr=lr, seed=seed)) for seed in range(sweep.seeds)]
        runs += [{"lr": lr, "seed": seed, **asdict(result)} for seed, result in enumerate(results)]
        if not sweep.rates and all(_failed(result) for result in results):
            break
    return {
        **asdict(sweep),
        "parameters": _parameters(spec),
        "edge": edge,
        "runs": runs,
    }


def _failed(result: RunResult) -> bool:
    return not math.isfinite(result.train_loss) or (
        not result.stable and result.train_loss > result.initial_loss
    )


def edge_sweeps() -> Iterator[Sweep]:
    """Depth × width exponent × matching × loss × rule."""
    methods = (("nup", "norm"), ("nup", "none"), ("ntp", "none"))
    for depth, base_width in ((4, 8), (8, 8), (12, 4)):
        for exponent in (0.0, 1.0, 2.0):
            matched = matching_base_width(depth, base_width, exponent)
            for matching, width in (("equal base width", base_width), ("equal parameters", matched)):
                if exponent == 2.0 and matching == "equal parameters":
                    continue
                for loss in LOSSES:
                    for parameterization, rule in methods:
                        spec = RunSpec(
                            depth=depth, base_width=width, width_exponent=exponent, lr=0.0, loss=loss,
                            parameterization=parameterization, rule=rule,
                        )  # fmt: skip
                        yield Sweep(matching if exponent != 2.0 else "both", spec)


def transfer_sweeps() -> Iterator[Sweep]:
    """Best learning rate against base width and depth, under νP and NTP."""
    rates = tuple(2.0**power for power in range(-2, 7))
    for depth in (4, 8, 16):
        for base_width in (8, 16, 32, 64):
            for parameterization in ("nup", "ntp"):
                for loss in LOSSES:
                    spec = RunSpec(
                        depth=depth, base_width=base_width, lr=0.0, loss=loss, batch_size=64, steps=200,
                        parameterization=parameterization, measurements=0, schedule="linear",
                    )  # fmt: skip
                    large = _parameters(spec) > 3e6
                    yield Sweep("norm", spec, seeds=1 if large else 3, rates=rates)


def rule_sweeps() -> Iterator[Sweep]:
    """Every rule and baseline at its own best learning rate."""
    methods: dict[str, dict[str, Any]] = {
        "νP norm": {},
        "νP gain": {"rule": "gain"},
        "νP kernel": {"rule": "kernel"},
        "νP power ½ (between norm and gain)": {"rule": "power:0.5"},
        "νP norm, static": {"static": True},
        "νP norm, output × √m": {"output_scale": 0.0},
        "νP plain": {"rule": "none"},
        "NTP norm": {"parameterization": "ntp"},
        "NTP plain": {"parameterization": "ntp", "rule": "none"},
        "NTP plain, clipped": {"parameterization": "ntp", "rule": "none"},
        "NTP plain, warm-up": {"parameterization": "ntp", "rule": "none", "warmup_steps": 60},
    }
    for depth, base_width in ((6, 8), (7, 16)):
        for loss in LOSSES:
            for schedule in ("constant", "linear"):
                for label, changes in methods.items():
                    if "output_scale" in changes:
                        last_hidden = width_pattern(64, 10, depth=depth, base_width=base_width)[-2]
                        changes = {"output_scale": last_hidden**0.5}
                    spec = RunSpec(
                        depth=depth, base_width=base_width, lr=0.0, loss=loss, measurements=0,
                        **({"schedule": schedule} | changes),
                    )  # fmt: skip
                    yield Sweep(label, spec, clip="clipped" in label)


def output_sweeps() -> Iterator[Sweep]:
    """What the size of the output layer decides: its multiplier α_l and its weight ω_l in ξ_l."""
    for depth, base_width in ((6, 8), (7, 16)):
        for loss in LOSSES:
            for output_scale, output_weight in (
                (1.0, 1.0), (1.0, 4.0), (1.0, 16.0), (4.0, 1.0), (4.0, 4.0), (16.0, 1.0), (4.0, 0.25)
            ):  # fmt: skip
                spec = RunSpec(
                    depth=depth, base_width=base_width, lr=0.0, loss=loss, schedule="linear", measurements=0,
                    output_scale=output_scale, output_weight=output_weight,
                )  # fmt: skip
                yield Sweep(f"νP norm, α_l × {output_scale:g}, ω_l × {output_weight:g}", spec)


TABLES = {"edge": edge_sweeps, "transfer": transfer_sweeps, "rules": rule_sweeps, "output": output_sweeps}


def matching_base_width(depth: int, base_width: int, exponent: float) -> int:
    """m for exponent r with as many weights as r = 2 has at ``base_width``, as nearly as integers allow."""
    target = _parameters(RunSpec(depth=depth, base_width=base_width, lr=0.0))

    def distance(m: int) -> float:
        found = _parameters(RunSpec(depth=depth, base_width=m, lr=0.0, width_exponent=exponent))
        return abs(math.log(found / target))

    return min(range(1, 4096), key=distance)


def _parameters(spec: RunSpec) -> int:
    widths = width_pattern(64, 10, depth=spec.depth, base_width=spec.base_width, exponent=spec.width_exponent)
    return count_weights(widths)


def study(tables: Sequence[str], out: Path, workers: int, *, max_weights: float = MAX_WEIGHTS) -> None:
    """Run what is missing of ``tables``, networks above ``max_weights`` left out, and write them."""
    out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    for table in tables:
        path = out / f"{table}.jsonl"
        done = {_key(row) for row in read_rows(path)}
        missing = [sweep for sweep in TABLES[table]() if sweep.key not in done]
        small = [sweep for sweep in missing if _parameters(sweep.spec) <= max_weights]
        if len(small) < len(missing):
            left_out = len(missing) - len(small)
            print(f"{table}: {left_out} sweeps above {max_weights:g} weights left out", file=sys.stderr)
        with context.Pool(workers) as pool, path.open("a", encoding="utf-8") as stream:
            results = pool.imap_unordered(execute, small)
            for row in tqdm(results, total=len(small), desc=table, disable=None):
                stream.write(json.dumps(finite(row), allow_nan=False) + "\n")
                stream.flush()
        write_table(table, out)
    write_summary(out)


def _key(row: dict[str, Any]) -> str:
    return json.dumps({entry.name: row[entry.name] for entry in fields(Sweep)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(prog="python -m scaled_sgd.study.beyond_edge", description=__doc__)
    parser.add_argument("tables", nargs="+", choices=list(TABLES))
    parser.add_argument("--out", type=Path, default=Path("docs/results/beyond_edge"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-weights", type=float, default=MAX_WEIGHTS, help="leave larger networks out")
    parser.add_argument("--tables-only", action="store_true", help="write the tables from what is there")
    options = parser.parse_args(arguments)
    if options.tables_only:
        for table in options.tables:
            write_table(table, options.out)
        write_summary(options.out)
    else:
        study(options.tables, options.out, options.workers, max_weights=options.max_weights)
    return 0


if __name__ == "__main__":
    sys.exit(main())
