"""Lines and points of the figures that a study file describes."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaled_sgd.study.claims.labels import column_label
from scaled_sgd.study.claims.plot import Plot
from scaled_sgd.study.claims.quantity import RunQuantity
from scaled_sgd.study.claims.taking import along, kept, measured
from scaled_sgd.study.figures.drawing.panels import Panel
from scaled_sgd.study.figures.drawing.style import GREY, MOST_MARKERS, category, curve, ordered
from scaled_sgd.study.figures.reading.over_steps import over_seeds
from scaled_sgd.study.figures.reading.view import SEED, STEP_LOSS, View
from scaled_sgd.study.figures.reading.words import axis_label, value_label, wrapped

EDGE = "edge"
"""The column of the edge of stability of each step: dashed, in the colour of its line."""
NOT_DATA = "not data"
"""Group of marks that are not at heights of numbers."""
DASHED: dict[str, Any] = {"linestyle": (0, (4, 2)), "marker": "", "linewidth": 1.2}
DASHES = ("-", (0, (1.5, 1.5)), (0, (3, 1)), (0, (7, 2)))
"""Of several columns of a line."""


@dataclass(frozen=True)
class PlotLine:
    """A line of a panel.

    Attributes:
        value: the value of ``lines``, as text.
        place: which of them it is.
        head: panel and line, as the table has them.
        label: in the legend; empty for none.
        look: how it is drawn.
        plain: its rows of the plain table of runs.
        quantity: what it shows.
    """

    value: str
    place: int
    head: dict[str, str]
    label: str
    look: dict[str, Any]
    plain: pd.DataFrame
    quantity: RunQuantity


def lines_of(view: View, plot: Plot, panel: Panel) -> list[PlotLine]:
    """One for each value of ``lines`` and each curve."""
    plain = view.plain[view.plain["id"].isin(panel.runs["id"])]
    split = along(plain, plot.lines) if plot.lines else [("", plain)]
    ranked = bool(plot.lines) and pd.api.types.is_numeric_dtype(view.plain[plot.lines])
    # Looks belong to values of the whole study, not of the panel.
    every = [value for value, _ in along(view.plain, plot.lines)] if plot.lines else [""]
    several = len(plot.curves) > 1
    found = []
    for value, rows in split:
        position = every.index(value)
        name = value_label(plot.lines, value) if plot.lines else ""
        for place, quantity in enumerate(plot.curves):
            look = ordered(position, len(every)) if ranked else category(position if plot.lines else place)
            if plot.lines and several:
                look |= {"linestyle": DASHES[place % len(DASHES)]}
                look |= {"marker": "", "linewidth": 1.2} if place else {}
            if quantity.column == EDGE:
                look |= DASHED | ({} if plot.lines else {"color": GREY})
            of = column_label(quantity.column) if several else ""
            head = {
                "panel": panel.title or "all",
                "line": " · ".join(part for part in (name, of) if part) or "all",
            }
            # Columns of several lines are told by their dashes (plot_guides.handles).
            shown = ("" if place else name) if plot.lines else of
            look = {"markersize": 4.0} | look
            found.append(PlotLine(str(value), position, head, shown, look, rows, quantity))
    return found


def over_axis(ax: Axes, view: View, plot: Plot, line: PlotLine) -> list[dict[str, Any]]:
    """A measure at each value of an axis; a cross at the top where all runs diverged."""
    metrics = view.metrics.rename(columns={STEP_LOSS: "loss"})
    found = [
        (x, measured(line.quantity, rows, metrics), len(rows), (rows["status"] == "diverged").all())
        for x, rows in along(line.plain, plot.along)
    ]
    shown = kept(view.plain, line.quantity.where)
    names = [str(value) for value, _ in along(shown, plot.along)]
    text = not pd.api.types.is_numeric_dtype(view.plain[plot.along])
    places = [float(names.index(str(x))) if text else float(x) for x, *_ in found]
    drawn = [(at, y) for at, (_, y, *_) in zip(places, found, strict=True) if math.isfinite(y)]
    # Names have no values between them.
    look = line.look | ({"linestyle": "", "markersize": 7.0} if text else {})
    ax.plot([at for at, _ in drawn], [y for _, y in drawn], label=line.label or None, **look)
    lost = [at for at, (*_, gone) in zip(places, found, strict=True) if gone and line.quantity.column != EDGE]
    if lost:
        height = 0.985 - 0.045 * line.place
        ax.plot(
            lost, [height] * len(lost), linestyle="", marker="x", color=look["color"], gid=NOT_DATA,
            transform=ax.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
        ax.margins(y=0.1 + 0.05 * line.place)
    if text:
        ax.set_xticks(range(len(names)), [wrapped(each, 18) for each in names])
        ax.set_xlim(-0.5, len(names) - 0.5)
    return [line.head | {axis_label(plot.along): x, "value": y, "runs": n} for x, y, n, _ in found]


def over_steps(ax: Axes, view: View, plot: Plot, line: PlotLine) -> list[dict[str, Any]]:
    """A column along the steps: median and range over seeds."""
    column = STEP_LOSS if line.quantity.column == "loss" else line.quantity.column
    runs = view.runs[view.runs["id"].isin(line.plain["id"])]
    data = over_seeds(view.steps(runs, [column]), column)
    if plot.powers:
        data = data[data.index > 0]
    if data.empty:
        return []
    # What swings at every step would be a broad band: dots show between what.
    dots = {"linestyle": "", "marker": ".", "markersize": 3.0} if _swings(data["median"]) else {}
    curve(ax, data, line.look | dots, label=line.label or None)
    (*_, drawn) = ax.get_lines()
    if dots:
        drawn.set_markevery(None)
    elif plot.powers:
        at = np.unique(np.geomspace(1, len(data), MOST_MARKERS).astype(int) - 1)
        drawn.set_markevery(at.tolist())
    ends = {"at the start": data["median"].iloc[0], "value": data["median"].iloc[-1]}
    return [line.head | ends | {"runs": runs[SEED].nunique()}]


def _swings(values: pd.Series) -> bool:
    """Whether a long curve turns at more than a third of its steps."""
    moves = np.sign(np.diff(values.to_numpy(dtype="float64")))
    return len(moves) > 10 * MOST_MARKERS and bool((moves[1:] * moves[:-1] < 0).mean() > 1 / 3)


def points(ax: Axes, view: View, plot: Plot, line: PlotLine) -> list[dict[str, Any]]:
    """A column against another one, a point a measured step."""
    names = [plot.against, line.quantity.column]
    runs = view.runs[view.runs["id"].isin(line.plain["id"])]
    steps = view.steps(runs, names).dropna(subset=names)
    if len(steps) < 2:
        return []
    x, y = (steps[name].to_numpy(dtype="float64") for name in names)
    look = line.look | {"linestyle": "", "markersize": 3.0, "alpha": 0.5, "markeredgewidth": 0}
    ax.plot(x, y, label=line.label or None, rasterized=True, **look)
    moved = x.std() > 0 and y.std() > 0
    value = float(np.corrcoef(x, y)[0, 1]) if moved else math.nan
    return [line.head | {"points": len(steps), "value": value, "runs": runs[SEED].nunique()}]
