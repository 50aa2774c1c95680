"""Collects the tables of a study: one row per run, and one row per logged step of every run."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.text import escaped
from scaled_sgd.runs.records import replace_file
from scaled_sgd.study.folder import StudyFolder
from scaled_sgd.study.tables.ended import Ended, read_run
from scaled_sgd.study.tables.tidy import column, flat, in_order

_SUMMARY = (
    "status", "steps", "step", "layer", "initial_loss", "max_loss", "train_loss", "eval_loss", "accuracy",
    "parameters", "widths",
)  # fmt: skip
_DERIVED = ("stable", "largest_edge_ratio", "late_edge_ratio")
_METRICS = (
    "id", "step", "epoch", "samples", "lr", "loss", "grad_norm", "eval_loss", "accuracy", "loss_after",
    "predicted_loss", "sharpness", "preconditioned_sharpness", "edge_ratio", "edge",
    "directional_edge_ratio",
)  # fmt: skip
_TIMES = ("seconds",)
_AXIS_AND_METRIC = "loss"
"""The loss of a run is an axis of many studies, unlike the loss of a step."""


@dataclass(frozen=True)
class Collected:
    """A study as tables (``docs/report.md`` lists the columns).

    Attributes:
        runs: one row per planned run that has ended, in the order of the plan.
        metrics: one row per logged step, runs in the order of the plan; ``id`` joins it with ``runs``.
        plan: one row per planned run, ended or not: ``id`` and the axes.
        pending: number of planned runs that have not ended, without damaged ones.
        warnings: one line for each run folder that could not be read completely.
        damaged: number of runs among these whose result is lost.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    plan: pd.DataFrame
    pending: int
    damaged: int
    warnings: tuple[str, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """Columns of ``runs`` that the study varies, in the order of its file."""
        return tuple(self.plan.columns[1:])

    @property
    def planned(self) -> int:
        """Number of distinct runs in the plan."""
        return int(self.plan["id"].nunique())

    def ended(self, status: str) -> int:
        """Number of runs that are ``finished`` or ``diverged``."""
        return int((self.runs.drop_duplicates("id")["status"] == status).sum())

    def describe(self) -> str:
        """The counts as one line of text."""
        line = (
            f"{self.planned} runs: {self.ended('finished')} finished, {self.ended('diverged')} diverged, "
            f"{self.pending} pending"
        )
        return line + (f", {self.damaged} damaged" if self.damaged else "")


def collect(folder: Path) -> Collected:
    """Read every run of a study's plan and write ``runs.parquet`` and ``metrics.parquet`` next to it.

    The same runs give the same tables regardless of the order and the number of workers that made them; only
    ``seconds``, the last column of both, depends on the machine.

    Raises:
        UserError: the folder has no plan, or an axis has the name of a column that every run has.
    """
    folder = Path(folder)
    plan = StudyFolder(folder).planned()
    found: dict[str, Ended] = {}
    warnings: list[str] = []
    pending = damaged = 0
    for identifier in dict.fromkeys(entry["id"] for entry in plan):
        try:
            run = read_run(folder / "runs" / identifier, warnings)
        except (OSError, ValueError, RecursionError) as error:
            damaged += 1
            warnings.append(f"runs/{identifier}: left out: {' '.join(str(error).split())}")
            continue
        if run is None:
            pending += 1
        else:
            found[identifier] = run
    axes = _axes(plan)
    clashing = {identifier: name for identifier, run in found.items() if (name := _clash(run, axes))}
    if len(clashing) < len(found):
        for identifier, name in clashing.items():
            del found[identifier]
            damaged += 1
            warnings.append(f"runs/{identifier}: left out: it has a column {name!r}, which is an axis")
    ended = [entry["id"] in found for entry in plan]
    facts = _facts([entry for entry in plan if entry["id"] in found], plan, found)
    metrics = _metrics(found)
    for axis in axes.columns[1:]:
        if axis in facts or (axis in metrics and axis != _AXIS_AND_METRIC):
            raise UserError(f"axes: {axis!r} is a column of every run; allowed: another name for this axis")
    collected = Collected(
        pd.concat([axes[ended].reset_index(drop=True), facts], axis="columns"),
        metrics,
        axes,
        pending,
        damaged,
        tuple(map(escaped, warnings)),
    )
    for name, table in (("runs", collected.runs), ("metrics", collected.metrics)):
        replace_file(folder / f"{name}.parquet", partial(_write, table))
    return collected


def _clash(run: Ended, axes: pd.DataFrame) -> str | None:
    """A column of a run that has the name of an axis."""
    own = {name for name, _ in flat(run.summary)} | (run.metrics.keys() - {_AXIS_AND_METRIC})
    return next((axis for axis in axes.columns[1:] if axis in own), None)


def _write(table: pd.DataFrame, path: Path) -> None:
    # Given a path, pyarrow writes only where its name is UTF-8.
    with path.open("wb") as stream:
        table.to_parquet(stream, engine="pyarrow", index=False)


def _axes(plan: Sequence[dict[str, Any]]) -> pd.DataFrame:
    names = dict.fromkeys(name for entry in plan for name in entry["axes"])
    columns = {name: column([entry["axes"].get(name) for entry in plan]) for name in names}
    return pd.DataFrame({"id": column([entry["id"] for entry in plan]), **columns})


def _facts(
    ended: Sequence[dict[str, Any]], plan: Sequence[dict[str, Any]], found: dict[str, Ended]
) -> pd.DataFrame:
    """Configuration and summary of runs that have ended, with the keys of the whole plan."""
    configs = [{f"config.{key}": value for key, value in flat(entry["config"])} for entry in ended]
    keys = dict.fromkeys(f"config.{key}" for entry in plan for key, _ in flat(entry["config"]))
    summaries = [dict(flat(found[entry["id"]].summary)) for entry in ended]
    names = in_order(
        {name for summary in summaries for name in summary} | {*_SUMMARY, *_DERIVED, *_TIMES},
        first=_SUMMARY,
        last=(*_DERIVED, *_TIMES),
    )
    columns = {key: column([config.get(key) for config in configs]) for key in keys}
    columns |= {name: column([summary.get(name) for summary in summaries]) for name in names}
    columns["stable"] = columns["stable"].astype("boolean")
    return pd.DataFrame(columns)


def _metrics(found: dict[str, Ended]) -> pd.DataFrame:
    names = in_order(
        {name for run in found.values() for name in run.metrics} | {"id", "step", *_TIMES},
        first=_METRICS,
        last=_TIMES,
    )
    lengths = [len(run.metrics.get("step", ())) for run in found.values()]
    columns: dict[str, Any] = {
        "id": column([i for i, n in zip(found, lengths, strict=True) for _ in range(n)])
    }
    for name in names[1:]:
        parts = list(_parts(name, found, lengths))
        columns[name] = np.concatenate(parts) if parts else np.empty(0)
    # DataFrame.astype would copy thousands of columns one by one.
    columns["step"] = columns["step"].astype("int64")
    return pd.DataFrame(columns)


def _parts(name: str, found: dict[str, Ended], lengths: Sequence[int]) -> Iterator[np.ndarray]:
    for run, length in zip(found.values(), lengths, strict=True):
        yield run.metrics[name] if name in run.metrics else np.full(length, math.nan)
