"""Draws the figures that a study file describes (:class:`~scaled_sgd.study.claims.plot.Plot`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scaled_sgd.study.claims.plot import Plot, title_of
from scaled_sgd.study.claims.quantity import STEP, RunQuantity
from scaled_sgd.study.claims.taking import along, kept, measured
from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panel, Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import GREY, category, curve, log_axis, ordered, step_axis
from scaled_sgd.study.figures.reading.over_steps import over_seeds
from scaled_sgd.study.figures.reading.rates import seed_note
from scaled_sgd.study.figures.reading.view import SEED, STEP_LOSS, View, label
from scaled_sgd.study.figures.reading.words import axis_label, number, sentence_of, span, spread

_EDGE = "edge"
"""The column of the edge of stability of each step: dashed, in the colour of the first column."""

_DASHED: dict[str, Any] = {"linestyle": (0, (4, 2)), "marker": "", "linewidth": 1.2}

_DOTS = ((0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))

_LOG_FROM = 5.0
"""Positive numbers whose largest is so many times the smallest have a logarithmic axis."""


@dataclass(frozen=True)
class _Line:
    """A line of a panel.

    Attributes:
        head: panel and line, as the table has them.
        label: in the legend; empty for none.
        look: how it is drawn.
        plain: its rows of the plain table of runs.
        quantity: what it shows.
    """

    head: dict[str, str]
    label: str
    look: dict[str, Any]
    plain: pd.DataFrame
    quantity: RunQuantity


def plot_recipe(plot: Plot) -> Recipe:
    """How to draw a described figure."""
    return Recipe(plot.name, plot.title, partial(_lacks, plot=plot), partial(_draw, plot=plot))


def _lacks(view: View, plot: Plot) -> str:
    """A study needs ended runs and, for columns, the numbers."""
    runs = _of(view, kept(view.plain, plot.curves[0].where))
    missing = [axis for axis in (plot.along, plot.lines) if axis and axis not in view.plain and axis != STEP]
    if missing or runs.empty:
        return f"runs over {missing[0] if missing else plot.along}"
    columns = [curve.column for curve in plot.curves if curve.column]
    known = [c for c in columns if c in view.plain or view.has(STEP_LOSS if c == "loss" else c)]
    return "" if len(known) == len(columns) else f"{', '.join(set(columns) - set(known))} in the metrics"


def _draw(view: View, plot: Plot) -> Drawn:
    runs = _of(view, kept(view.plain, plot.curves[0].where))
    over, several = _over_steps if plot.along == STEP else _over_axis, len(plot.curves) > 1
    taken = {plot.along, plot.lines}
    # A measure along an axis is over all rates that it has not along itself.
    rest = [axis for axis in view.varied if axis not in taken and runs[axis].nunique() > 1]
    rest = [axis for axis in rest if not _determined(view, runs, axis, taken)]
    panels = Panels.of(runs, rest)
    picture, axes = panels.figure(share_y=plot.along != STEP)
    rows: list[dict[str, Any]] = []
    for ax, panel in zip(axes, panels.shown, strict=True):
        for place, line in enumerate(_lines(view, plot, panel)):
            rows += over(ax, view, plot, line, laws=place == 0)
        _guides(ax, plot)
        _scales(ax, plot, rows)
    y = title_of(plot.curves[0]) if plot.along != STEP else plot.curves[0].column.replace("_", " ")
    panels.label(axes, "step" if plot.along == STEP else axis_label(plot.along), "" if several else y)
    key_of_lines(picture, axes, extra=_handles(plot))
    seeds = [row["runs"] for row in rows]
    return Drawn(
        plot.name,
        plot.title,
        _sentence(rows, plot),
        _caption(view, plot),
        (*panels.notes, *(seed_note(seeds) if plot.along == STEP else ())),
        pd.DataFrame(rows),
        picture,
    )


def _determined(view: View, runs: pd.DataFrame, axis: str, taken: set[str]) -> bool:
    """Whether one of the axes that are drawn tells this one."""
    plain = view.plain[view.plain["id"].isin(runs["id"])]
    return any((plain.groupby(one)[axis].nunique() == 1).all() for one in taken - {STEP} if one in plain)


def _of(view: View, plain: pd.DataFrame) -> pd.DataFrame:
    return view.runs[view.runs["id"].isin(plain["id"])]


def _lines(view: View, plot: Plot, panel: Panel) -> list[_Line]:
    """One for each value of ``lines`` and each curve."""
    plain = view.plain[view.plain["id"].isin(panel.runs["id"])]
    split = along(plain, plot.lines) if plot.lines else [("", plain)]
    ranked = bool(plot.lines) and pd.api.types.is_numeric_dtype(view.plain[plot.lines])
    # Looks belong to values of the whole study, not of the panel.
    every = [value for value, _ in along(view.plain, plot.lines)] if plot.lines else [""]
    found, count = [], len(every)
    for value, rows in split:
        position = every.index(value)
        for quantity in plot.curves:
            shown = plot.curves[0] if quantity.column == _EDGE else quantity
            place = plot.curves.index(shown)
            look = ordered(position, count) if ranked else category(position * len(plot.curves) + place)
            if quantity.column == _EDGE:
                look |= _DASHED
            elif ranked and place:
                look |= {"linestyle": _DOTS[0]}
            parts = [label(plot.lines, value)] if plot.lines else []
            if plot.lines and label(plot.lines, value) == str(value) and ranked:
                parts = [f"{axis_label(plot.lines)} {number(value)}"]
            parts += [quantity.column.replace("_", " ")] if len(plot.curves) > 1 else []
            name = " · ".join(parts)
            head = {"panel": panel.title or "all", "line": name or "all"}
            found.append(_Line(head, name, {"markersize": 4.0} | look, rows, quantity))
    return found


def _over_axis(ax: Axes, view: View, plot: Plot, line: _Line, *, laws: bool) -> list[dict[str, Any]]:
    metrics = view.metrics.rename(columns={STEP_LOSS: "loss"})
    points = [
        (x, measured(line.quantity, rows, metrics), len(rows)) for x, rows in along(line.plain, plot.along)
    ]
    drawn = [(x, y) for x, y, _ in points if math.isfinite(y)]
    names = [str(value) for value, _ in along(kept(view.plain, line.quantity.where), plot.along)]
    text = not pd.api.types.is_numeric_dtype(view.plain[plot.along])
    at = [float(names.index(str(x))) if text else float(x) for x, _ in drawn]
    ax.plot(at, [y for _, y in drawn], label=line.label or None, **line.look)
    if text:
        ax.set_xticks(range(len(names)), [fill(each, 14) for each in names])
    if laws and not text:
        _laws(ax, plot, at, [y for _, y in drawn])
    return [line.head | {axis_label(plot.along): x, "value": y, "runs": n} for x, y, n in points]


def _over_steps(ax: Axes, view: View, plot: Plot, line: _Line, *, laws: bool) -> list[dict[str, Any]]:
    column = STEP_LOSS if line.quantity.column == "loss" else line.quantity.column
    runs = _of(view, line.plain)
    data = over_seeds(view.steps(runs, [column]), column)
    if plot.powers:
        data = data[data.index > 0]
    if data.empty:
        return []
    curve(ax, data, line.look, label=line.label or None)
    if laws:
        _laws(ax, plot, data.index.tolist(), data["median"].tolist())
    ends = {"at the start": data["median"].iloc[0], "value": data["median"].iloc[-1]}
    return [line.head | ends | {"runs": runs[SEED].nunique()}]


def _laws(ax: Axes, plot: Plot, x: Sequence[float], y: Sequence[float]) -> None:
    """The power laws of the figure through the middle point of a line."""
    middle = len(x) // 2
    for exponent, dash in zip(plot.powers.values(), cycle(_DOTS), strict=False):
        law = [y[middle] * (place / x[middle]) ** exponent for place in x]
        ax.plot(x, law, color=GREY, linestyle=dash, linewidth=1.2)


def _guides(ax: Axes, plot: Plot) -> None:
    for height in plot.levels.values():
        ax.axhline(height, color=GREY, linestyle=_DASHED["linestyle"], linewidth=1.2)


def _handles(plot: Plot) -> list[Line2D]:
    dashes = [(label, _DASHED["linestyle"]) for label in plot.levels]
    dashes += list(zip(plot.powers, cycle(_DOTS)))
    return [Line2D([], [], color=GREY, linestyle=dash, linewidth=1.2, label=label) for label, dash in dashes]


def _scales(ax: Axes, plot: Plot, rows: Sequence[Mapping[str, Any]]) -> None:
    if plot.along == STEP and not plot.powers:
        step_axis(ax)
    elif plot.along == STEP:
        log_axis(ax, "x")
    elif _wide(places := [row[axis_label(plot.along)] for row in rows]):
        log_axis(ax, "x", at=sorted(set(places)))
    heights = np.concatenate([np.asarray(line.get_ydata(), dtype="float64") for line in ax.get_lines()])
    if _wide(heights[np.isfinite(heights)].tolist()):
        log_axis(ax, "y")


def _wide(values: Sequence[Any]) -> bool:
    numbers = [v for v in values if not isinstance(v, str)]
    return len(numbers) == len(values) > 0 and min(numbers) > 0 and max(numbers) >= _LOG_FROM * min(numbers)


def _caption(view: View, plot: Plot) -> str:
    said = f"{'; '.join(_words(plot))}, against {axis_label(plot.along)}; {spread(view.seeds)}."
    return f"{said[0].upper()}{said[1:]}"


def _words(plot: Plot) -> list[str]:
    if plot.along == STEP:
        return [quantity.column for quantity in plot.curves]
    return [title_of(quantity) for quantity in plot.curves]


def _sentence(rows: Sequence[Mapping[str, Any]], plot: Plot) -> str:
    """Where each line begins and ends."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        name = " · ".join(row[key] for key in ("panel", "line") if row[key] != "all")
        ends = [row["at the start"], row["value"]] if "at the start" in row else [row["value"]]
        groups.setdefault(name, []).extend(ends)
    found = {name: [v for v in values if math.isfinite(v)] for name, values in groups.items()}
    found = {name: values for name, values in found.items() if values}
    if not found:
        return "There are no numbers to draw."
    parts = [(name, f"{number(values[0])} to {number(values[-1])}") for name, values in found.items()]
    along_what = "step" if plot.along == STEP else axis_label(plot.along)
    said = sentence_of(parts, opening=f"From the first to the last {along_what}: ")
    return said or f"Values go from {span([v for values in found.values() for v in values])}."
