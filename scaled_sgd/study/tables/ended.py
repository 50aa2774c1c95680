"""Reads ended runs from a study's folder."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaled_sgd.core.text import escaped
from scaled_sgd.runs.own_files import read_file
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.study.tables.summaries import checked_summary, is_count
from scaled_sgd.study.tables.tidy import table_of


@dataclass(frozen=True)
class Ended:
    """A run that finished or diverged.

    Attributes:
        summary: its summary and derived columns (``docs/report.md``).
        metrics: an array (rows,) for each number in its metrics.
    """

    summary: dict[str, Any]
    metrics: dict[str, np.ndarray]


def read_run(folder: Path, warnings: list[str]) -> Ended | None:
    """A run that has ended, else None. Unreadable metrics add a warning.

    Raises:
        OSError, ValueError, RecursionError: the summary cannot be read.
    """
    try:
        summary = json.loads(read_file(folder / "summary.json"))
    except FileNotFoundError:
        return None
    if not isinstance(summary, dict) or not isinstance(summary.get("status"), str):
        raise ValueError("summary.json has no status")
    if summary["status"] not in ("finished", "diverged"):
        return None
    summary = checked_summary(summary)
    try:
        table = table_of(_steps(folder / "metrics.jsonl"))
    except (OSError, ValueError, RecursionError) as error:
        warnings.append(
            f"runs/{folder.name}: metrics left out: {' '.join(str(error).split()).split('; allowed')[0]}"
        )
        table = {}
    metrics = {escaped(name): values for name, values in table.items()}
    return Ended(summary | _derived(summary, metrics), metrics)


def _steps(path: Path) -> list[dict[str, Any]]:
    rows = list(read_metrics(path))
    if any(not is_count(row.get("step")) for row in rows):
        raise ValueError("a row of metrics.jsonl has no step")
    return rows


def _derived(summary: dict[str, Any], metrics: dict[str, np.ndarray]) -> dict[str, Any]:
    """Derived columns, and values that summaries of earlier launched runs lack.

    The largest loss is then the largest logged one.
    """
    losses = metrics.get("loss", np.empty(0))[metrics.get("lr", np.empty(0)) >= 0]
    first, largest = summary.get("initial_loss"), summary.get("max_loss")
    if first is None and len(losses) and math.isfinite(losses[0]):
        first = float(losses[0])
    if "max_loss" not in summary and len(losses) and np.isfinite(losses).all():
        largest = float(losses.max())
    known = summary["status"] == "diverged" or "max_loss" in summary or len(losses) > 0
    stable = (
        summary["status"] == "finished" and first is not None and largest is not None and largest <= 2 * first
    )
    steps, ratios = metrics.get("step", np.empty(0)), metrics.get("edge_ratio", np.empty(0))
    late = ratios[2 * steps >= steps.max(initial=0)] if len(ratios) else ratios
    return {
        "initial_loss": first,
        "max_loss": largest,
        "stable": stable if known else None,
        "largest_edge_ratio": _of_finite(np.max, ratios),
        "late_edge_ratio": _of_finite(np.median, late),
    }


def _of_finite(summarise: Any, values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(summarise(finite)) if len(finite) else None
