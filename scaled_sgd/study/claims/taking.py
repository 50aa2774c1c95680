"""Computes quantities from the tables of a study."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from scaled_sgd.core.registry import load
from scaled_sgd.study.claims.quantity import MEASURES, STEP, RunQuantity
from scaled_sgd.study.tables.collect import Collected


def taken(quantity: RunQuantity, collected: Collected) -> float:
    """The number; NaN where the study has not run what it is of."""
    runs = kept(collected.runs, quantity.where)
    if not quantity.take:
        return measured(quantity, runs, collected.metrics)
    values = {x: measured(quantity, rows, collected.metrics) for x, rows in along(runs, quantity.along)}
    return _TAKEN[quantity.take]({x: y for x, y in values.items() if not math.isnan(y)})


def kept(runs: pd.DataFrame, where: Mapping[str, tuple[Any, ...]]) -> pd.DataFrame:
    """The runs with these values of axes."""
    for axis, values in where.items():
        if axis == STEP:
            continue
        if axis not in runs:
            return runs.iloc[:0]
        # An axis of numbers and texts, such as 16 and all, is one of texts.
        runs = runs[runs[axis].isin(values) | runs[axis].astype(str).isin([str(value) for value in values])]
    return runs


def along(runs: pd.DataFrame, axis: str) -> list[tuple[Any, pd.DataFrame]]:
    """The runs of each value of an axis: numbers ascending, names in the order of the plan."""
    if axis not in runs:
        return []
    values = runs[axis].dropna().drop_duplicates().tolist()
    if pd.api.types.is_numeric_dtype(runs[axis]):
        values.sort()
    return [(value, runs[runs[axis] == value]) for value in values]


def measured(quantity: RunQuantity, runs: pd.DataFrame, metrics: pd.DataFrame) -> float:
    """The measure of these runs; NaN of none. Columns of the metrics are those of finished runs, at the steps
    that ``where`` names, if any."""
    if runs.empty:
        return math.nan
    own = metrics[metrics["id"].isin(runs.loc[runs["status"] == "finished", "id"])]
    if STEP in quantity.where:
        own = own[own["step"].isin(quantity.where[STEP])]
    value: float = load(MEASURES[quantity.measure].of)(runs.drop_duplicates("id"), own, quantity.column)
    return value


def _power(values: Mapping[Any, float]) -> float:
    """The slope of a least-squares fit of log y against log x."""
    points = [(x, y) for x, y in values.items() if not isinstance(x, str) and x > 0 and 0 < y < math.inf]
    if len(points) < 2:
        return math.nan
    x, y = np.log(np.array(points, dtype="float64")).T
    x -= x.mean()
    return float((x @ y) / (x @ x))


def _ratio(values: Mapping[Any, float]) -> float:
    first, *_, last = values.values() if len(values) > 1 else (math.nan, math.nan)
    return last / first if first else math.nan


def _difference(values: Mapping[Any, float]) -> float:
    first, *_, last = values.values() if len(values) > 1 else (math.nan, math.nan)
    return last - first


def _spread(values: Mapping[Any, float]) -> float:
    found = list(values.values())
    return max(found) / min(found) if len(found) > 1 and min(found) > 0 else math.nan


_TAKEN: Mapping[str, Callable[[Mapping[Any, float]], float]] = {
    "power": _power,
    "ratio": _ratio,
    "difference": _difference,
    "spread": _spread,
    "lowest": lambda values: min(values.values(), default=math.nan),
    "highest": lambda values: max(values.values(), default=math.nan),
}
