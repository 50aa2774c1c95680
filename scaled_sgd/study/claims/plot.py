"""Figures that a study file describes: a measure along an axis, or columns along the steps."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaled_sgd.core.errors import UserError
from scaled_sgd.study.claims.labels import column_label
from scaled_sgd.study.claims.quantity import STEP, RunQuantity, is_axis, read_quantity

RATE = "optim.lr"
POINTS = "metrics."
_KEYS = (
    "name", "title", "measure", "column", "where", "along", "lines", "axis", "levels", "powers", "edges",
)  # fmt: skip
_POWER = ("power", "line", "from", "to")


@dataclass(frozen=True)
class Power:
    """A power law, drawn where it is said to hold and fitted to the points there.

    Attributes:
        exponent: the power of x.
        line: the value of ``lines`` whose points they are; empty: the first.
        low: the lowest x.
        high: the highest one.
    """

    exponent: float
    line: str = ""
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        name: name of its files.
        title: the question it answers.
        curves: one quantity for each column, or one without a column; along a step they have no measure.
        along: the axis, ``step``, or ``metrics.COLUMN``: points of columns against that column.
        lines: the axis whose values are lines; empty for none.
        axis: what several columns have in common, as the y label says it; empty: their labels.
        levels: dashed horizontal lines, by label: heights, or the runs (values of axes) whose measure it is.
        powers: dotted power laws, by label.
        edges: dotted vertical lines, by label: rates as multiples of 1/λ₀, λ₀ the sharpness at the start.
    """

    name: str
    title: str
    curves: tuple[RunQuantity, ...]
    along: str
    lines: str
    axis: str
    levels: Mapping[str, float | Mapping[str, tuple[Any, ...]]]
    powers: Mapping[str, Power]
    edges: Mapping[str, float]

    @property
    def against(self) -> str:
        """The column along x of a figure of points; empty for another."""
        return self.along.removeprefix(POINTS) if self.along.startswith(POINTS) else ""

    @property
    def measured(self) -> bool:
        """Whether it shows measures of runs, and not their columns."""
        return self.along != STEP and not self.against

    @property
    def y_label(self) -> str:
        """What the curves show."""
        words = self.axis or ", ".join(column_label(curve.column) for curve in self.curves if curve.column)
        return self.curves[0].title_of(words) if self.measured else words


def read_plot(found: Mapping[str, Any], axes: Sequence[str] | None) -> Plot:
    """A figure of ``report`` in a study file.

    Args:
        found: its keys.
        axes: names of the study's axes; None: any name may be one.

    Raises:
        UserError: a key is missing, unknown or not usable.
    """
    name = found.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", name):
        raise UserError(f"report.name: {name!r} is not usable; allowed: small letters, digits and _")
    place = f"report.{name}"
    for key in found:
        if key not in _KEYS:
            raise UserError(f"{place}.{key}: unknown key; allowed: {', '.join(_KEYS)}")
    along, lines = found.get("along"), found.get("lines", "")
    over_rows = along == STEP or (isinstance(along, str) and along.startswith(POINTS))
    for key, axis, usable in (("along", along, over_rows), ("lines", lines, lines == "")):
        if not usable and not is_axis(axis, axes):
            allowed = ", ".join((*(axes or ()), "config.KEY", *((STEP, "metrics.COLUMN") * (key == "along"))))
            raise UserError(f"{place}.{key}: {axis!r} is not usable; allowed: {allowed}")
    columns = found.get("column", "")
    columns = columns if isinstance(columns, list) else [columns]
    if not columns or not all(isinstance(column, str) for column in columns):
        raise UserError(f"{place}.column: {columns!r} is not usable; allowed: names of columns")
    shared = {"where": found.get("where", {})}
    if over_rows:
        # Any measure of a column will do for the checks.
        shared["measure"] = "last"
        if STEP in (found.get("where") or {}):
            raise UserError(f"{place}.where: step is the axis; allowed: axes of the study")
        if "measure" in found:
            raise UserError(f"{place}.measure: it has none along {along}; allowed: column")
    else:
        shared |= {"measure": found.get("measure"), "along": along}
    curves = tuple(
        read_quantity(place, shared | ({"column": column} if column else {}), axes) for column in columns
    )
    if "edges" in found and along != RATE:
        raise UserError(f"{place}.edges: they are rates, not values of {along}; allowed: along {RATE}")
    return Plot(
        name,
        str(found.get("title", name)),
        curves,
        str(along),
        str(lines),
        str(found.get("axis", "")),
        {
            label: _level(place, label, value, curves[0], axes)
            for label, value in _group(place, found, "levels")
        },
        {label: _power(place, label, value) for label, value in _group(place, found, "powers")},
        {label: _number(f"{place}.edges", value) for label, value in _group(place, found, "edges")},
    )


def _group(place: str, found: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    values = found.get(key, {})
    if not isinstance(values, dict) or not all(isinstance(label, str) for label in values):
        raise UserError(f"{place}.{key}: {values!r} is not usable; allowed: {{label: number}}")
    return list(values.items())


def _number(place: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{place}: {value!r} is not usable; allowed: a number")
    return float(value)


def _level(
    place: str, label: str, value: object, curve: RunQuantity, axes: Sequence[str] | None
) -> float | Mapping[str, tuple[Any, ...]]:
    place = f"{place}.levels.{label}"
    if not isinstance(value, dict):
        return _number(place, value)
    like = {"measure": curve.measure, "where": value} | ({"column": curve.column} if curve.column else {})
    return read_quantity(place, like, axes).where


def _power(place: str, label: str, value: object) -> Power:
    place = f"{place}.powers.{label}"
    if not isinstance(value, dict):
        return Power(_number(place, value))
    if not value.keys() <= set(_POWER) or "power" not in value:
        raise UserError(f"{place}: {value!r} is not usable; allowed: {{{', '.join(_POWER)}}}")
    low, high = (_number(place, value.get(key, end)) for key, end in (("from", -math.inf), ("to", math.inf)))
    return Power(_number(place, value["power"]), str(value.get("line", "")), low, high)
