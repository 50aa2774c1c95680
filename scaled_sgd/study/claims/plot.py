"""Figures that a study file describes: a measure along an axis, or columns along the steps."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaled_sgd.core.errors import UserError
from scaled_sgd.study.claims.quantity import MEASURES, STEP, RunQuantity, is_axis, read_quantity

_KEYS = ("name", "title", "measure", "column", "where", "along", "lines", "levels", "powers")


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        name: name of its files.
        title: the question it answers.
        curves: one quantity for each column, or one without a column; along a step they have no measure.
        along: the axis, or ``step``.
        lines: the axis whose values are lines; empty for none.
        levels: heights of dashed horizontal lines, by label.
        powers: exponents of dotted power laws, by label, through the middle of the first line.
    """

    name: str
    title: str
    curves: tuple[RunQuantity, ...]
    along: str
    lines: str
    levels: Mapping[str, float]
    powers: Mapping[str, float]


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
    for key, axis, also in (("along", along, STEP), ("lines", lines, "")):
        if axis != also and not is_axis(axis, axes):
            allowed = ", ".join((*(axes or ()), "config.KEY", STEP))
            raise UserError(f"{place}.{key}: {axis!r} is not usable; allowed: {allowed}")
    columns = found.get("column", "")
    columns = columns if isinstance(columns, list) else [columns]
    if not columns or not all(isinstance(column, str) for column in columns):
        raise UserError(f"{place}.column: {columns!r} is not usable; allowed: names of columns")
    shared = {"where": found.get("where", {})}
    if along == STEP:
        # Any measure of a column will do for the checks.
        shared["measure"] = "last"
        if STEP in (found.get("where") or {}):
            raise UserError(f"{place}.where: step is the axis; allowed: axes of the study")
        if "measure" in found:
            raise UserError(f"{place}.measure: it has none along step; allowed: column")
    else:
        shared |= {"measure": found.get("measure"), "along": along}
    curves = tuple(
        read_quantity(place, shared | ({"column": column} if column else {}), axes) for column in columns
    )
    return Plot(
        name,
        str(found.get("title", name)),
        curves,
        str(along),
        str(lines),
        _numbers(place, found, "levels"),
        _numbers(place, found, "powers"),
    )


def title_of(curve: RunQuantity) -> str:
    """What a curve shows, as text."""
    return MEASURES[curve.measure].label.format(column=curve.column)


def _numbers(place: str, found: Mapping[str, Any], key: str) -> Mapping[str, float]:
    values = found.get(key, {})
    usable = isinstance(values, dict) and all(
        isinstance(label, str) and isinstance(value, int | float) and not isinstance(value, bool)
        for label, value in values.items()
    )
    if not usable:
        raise UserError(f"{place}.{key}: {values!r} is not usable; allowed: {{label: number}}")
    return {label: float(value) for label, value in values.items()}
