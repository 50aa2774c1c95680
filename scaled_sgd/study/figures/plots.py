"""Draws the figures that a study file describes (:class:`~scaled_sgd.study.claims.plot.Plot`)."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from scaled_sgd.study.claims.labels import column_label
from scaled_sgd.study.claims.plot import Plot
from scaled_sgd.study.claims.quantity import STEP
from scaled_sgd.study.claims.taking import kept
from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.signed import around_diagonal, signed_axis
from scaled_sgd.study.figures.drawing.style import log_axis, step_axis
from scaled_sgd.study.figures.plot_guides import draw_edges, draw_laws, draw_levels, handles
from scaled_sgd.study.figures.plot_lines import NOT_DATA, lines_of, over_axis, over_steps, points
from scaled_sgd.study.figures.reading.rates import seed_note
from scaled_sgd.study.figures.reading.view import STEP_LOSS, View
from scaled_sgd.study.figures.reading.words import axis_label, number, sentence_of, span, spread

_LOG_FROM = 5.0
"""Positive heights whose largest is so many times the smallest have a logarithmic axis; along x, twice."""
_FEW = 6
"""So many values along a linear axis have a tick each."""
_MANY = 1e4
"""Larger heights are written with k, M and G."""


def plot_recipe(plot: Plot) -> Recipe:
    """How to draw a described figure."""
    return Recipe(plot.name, plot.title, partial(_lacks, plot=plot), partial(_draw, plot=plot))


def _lacks(view: View, plot: Plot) -> str:
    """A study needs ended runs and, for columns, the numbers."""
    runs = _of(view, kept(view.plain, plot.curves[0].where))
    asked = [plot.along] if plot.measured else []
    missing = [axis for axis in (*asked, plot.lines) if axis and axis not in view.plain]
    if missing or runs.empty:
        return f"runs over {missing[0] if missing else plot.along}"
    columns = [curve.column for curve in plot.curves if curve.column] + [plot.against] * bool(plot.against)
    known = [c for c in columns if c in view.plain or view.has(STEP_LOSS if c == "loss" else c)]
    return "" if len(known) == len(columns) else f"{', '.join(set(columns) - set(known))} in the metrics"


def _draw(view: View, plot: Plot) -> Drawn:
    runs = _of(view, kept(view.plain, plot.curves[0].where))
    over = over_axis if plot.measured else points if plot.against else over_steps
    taken = {plot.along, plot.lines}
    # A measure along an axis is over all rates that it has not along itself.
    rest = [axis for axis in view.varied if axis not in taken and runs[axis].nunique() > 1]
    rest = [axis for axis in rest if not _determined(view, runs, axis, taken)]
    panels = Panels.of(runs, rest)
    picture, axes = panels.figure(share_y=plot.measured)
    rows: list[dict[str, Any]] = []
    for ax, panel in zip(axes, panels.shown, strict=True):
        lines = lines_of(view, plot, panel)
        found = [(line, over(ax, view, plot, line)) for line in lines]
        own = [row for _, here in found for row in here]
        draw_laws(ax, plot, [line for line, here in found if here])
        draw_levels(ax, view, plot)
        draw_edges(ax, view, plot, panel.runs)
        _scales(ax, plot, own)
        rows += own
    x = column_label(plot.against) if plot.against else axis_label(plot.along)
    panels.label(axes, x, plot.y_label)
    named = bool(plot.lines) and not pd.api.types.is_numeric_dtype(view.plain[plot.lines])
    key_of_lines(picture, axes, axis_label(plot.lines) if named else "", extra=handles(plot, axes))
    seeds = [row["runs"] for row in rows]
    return Drawn(
        plot.name,
        plot.title,
        _sentence(rows, plot),
        _caption(view, plot, x),
        (*panels.notes, *(() if plot.measured else seed_note(seeds))),
        pd.DataFrame(rows),
        picture,
    )


def _determined(view: View, runs: pd.DataFrame, axis: str, taken: set[str]) -> bool:
    """Whether one of the axes that are drawn tells this one."""
    plain = view.plain[view.plain["id"].isin(runs["id"])]
    return any((plain.groupby(one)[axis].nunique() == 1).all() for one in taken - {STEP} if one in plain)


def _of(view: View, plain: pd.DataFrame) -> pd.DataFrame:
    return view.runs[view.runs["id"].isin(plain["id"])]


def _scales(ax: Axes, plot: Plot, rows: Sequence[Mapping[str, Any]]) -> None:
    drawn = [line for line in ax.get_lines() if line.get_gid() != NOT_DATA]
    if plot.against:
        at = [np.column_stack([line.get_xdata(), line.get_ydata()]) for line in drawn]
        if at:
            around_diagonal(ax, np.concatenate(at).astype("float64"))
        return
    if plot.along == STEP and not plot.powers:
        step_axis(ax)
    elif plot.along == STEP:
        log_axis(ax, "x")
    elif _wide(places := [row[axis_label(plot.along)] for row in rows], 2.0):
        log_axis(ax, "x", at=sorted(set(places)))
    elif pd.api.types.is_numeric_dtype(pd.Series(places)) and len(set(places)) <= _FEW:
        ax.set_xticks(sorted(set(places)))
    heights = np.concatenate(
        [np.asarray(line.get_ydata(), dtype="float64") for line in drawn] or [np.empty(0)]
    )
    heights = heights[np.isfinite(heights)]
    if _wide(heights.tolist(), _LOG_FROM):
        log_axis(ax, "y")
    elif len(heights) and not signed_axis(ax, heights) and np.abs(heights).max() > _MANY:
        ax.yaxis.set_major_formatter(EngFormatter())


def _wide(values: Sequence[Any], ratio: float) -> bool:
    numbers = [v for v in values if not isinstance(v, str)]
    return len(numbers) == len(values) > 0 and min(numbers) > 0 and max(numbers) >= ratio * min(numbers)


def _caption(view: View, plot: Plot, x: str) -> str:
    curves = [curve.title if plot.measured else column_label(curve.column) for curve in plot.curves]
    said = f"{'; '.join(curves)}, against {x}; {spread(view.seeds)}."
    said = f"{said[0].upper() if said[0].isascii() else said[0]}{said[1:]}"
    if plot.against:
        said += " A point a measured step; on the line they are equal. Axes are linear around 0."
    if plot.edges:
        said += " λ₀ is the sharpness at the start."
    return said


def _sentence(rows: Sequence[Mapping[str, Any]], plot: Plot) -> str:
    """Where each line begins and ends, or how points are correlated."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        name = " · ".join(row[key] for key in ("panel", "line") if row[key] != "all")
        ends = [row["at the start"], row["value"]] if "at the start" in row else [row["value"]]
        groups.setdefault(name, []).extend(ends)
    found = {name: [v for v in values if math.isfinite(v)] for name, values in groups.items()}
    found = {name: values for name, values in found.items() if values}
    if not found:
        return "There are no numbers to draw."
    opening = f"From the first to the last {axis_label(plot.along)}: "
    parts = [(name, f"{number(values[0])} to {number(values[-1])}") for name, values in found.items()]
    if plot.against:
        opening = "The correlation is "
        parts = [(name, number(values[0], 2)) for name, values in found.items()]
    said = sentence_of(parts, opening=opening)
    return said or f"Values go from {span([v for values in found.values() for v in values])}."
