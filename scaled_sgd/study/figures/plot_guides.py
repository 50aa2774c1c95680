"""What theory says, beside the lines of a figure: power laws, levels, edges of rates."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scaled_sgd.study.claims.labels import column_label
from scaled_sgd.study.claims.measures import first
from scaled_sgd.study.claims.plot import Plot
from scaled_sgd.study.claims.taking import kept, measured
from scaled_sgd.study.figures.drawing.style import GREY
from scaled_sgd.study.figures.plot_lines import DASHED, DASHES, EDGE, NOT_DATA, PlotLine
from scaled_sgd.study.figures.reading.view import STEP_LOSS, View

_DARK = "#333333"
_LAWS = ((0, (5, 1.5, 1.5, 1.5)), (0, (1.5, 1.5)))
_LEVELS = (DASHED["linestyle"], (0, (7, 2)), (0, (2, 2)))


def draw_laws(ax: Axes, plot: Plot, lines: Sequence[PlotLine]) -> None:
    """Each power law through the middle, in logarithms, of the points that it is of."""
    data = [line for line in ax.get_lines() if line.get_gid() != NOT_DATA]
    for power, dash in zip(plot.powers.values(), cycle(_LAWS), strict=False):
        own = next((at for at, line in enumerate(lines) if power.line in ("", line.value)), None)
        if own is None:
            continue
        x, y = np.asarray(data[own].get_data(), dtype="float64")
        within = (power.low <= x) & (x <= power.high) & (x > 0) & (y > 0)
        if within.any():
            x, y = x[within], y[within]
            scale = np.exp(np.mean(np.log(y) - power.exponent * np.log(x)))
            law = scale * x**power.exponent
            ax.plot(x, law, color=_DARK, linestyle=dash, linewidth=1.3, zorder=4)


def draw_levels(ax: Axes, view: View, plot: Plot) -> None:
    """Heights, and those of other runs."""
    for level, dash in zip(plot.levels.values(), cycle(_LEVELS), strict=False):
        ax.axhline(
            level if isinstance(level, float) else _of_runs(view, plot, level),
            color=GREY,
            linestyle=dash,
            linewidth=1.2,
        )


def _of_runs(view: View, plot: Plot, where: Mapping[str, tuple[Any, ...]]) -> float:
    metrics = view.metrics.rename(columns={STEP_LOSS: "loss"})
    return measured(plot.curves[0], kept(view.plain, where), metrics)


def draw_edges(ax: Axes, view: View, plot: Plot, runs: pd.DataFrame) -> None:
    """Rates at multiples of 1/λ₀, named above the panel."""
    if not plot.edges:
        return
    start = first(runs, view.metrics[view.metrics["id"].isin(runs["id"])], "sharpness")
    for label, multiple in plot.edges.items():
        rate = multiple / start
        ax.axvline(rate, color=GREY, linestyle=":", linewidth=1.2, gid=NOT_DATA)
        ax.annotate(
            label, (rate, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points",
            ha="center", va="bottom", fontsize=8, color=GREY,
        )  # fmt: skip


def handles(plot: Plot, axes: Sequence[Axes]) -> list[Line2D]:
    """Guides, and columns of several lines, as the legend has them."""
    found = [(label, GREY, dash) for label, dash in zip(plot.levels, cycle(_LEVELS))]
    found += [(label, _DARK, dash) for label, dash in zip(plot.powers, cycle(_LAWS))]
    columns = [curve.column for curve in plot.curves]
    if plot.lines and len(columns) > 1:
        # One column and its edge need no more than the y label.
        told = [EDGE] if len(columns) == 2 and EDGE in columns else columns
        dashes = {column: DASHES[at % len(DASHES)] for at, column in enumerate(columns)}
        dashes[EDGE] = DASHED["linestyle"]
        found += [(column_label(column), GREY, dashes[column]) for column in told]
    lines = [Line2D([], [], color=c, linestyle=dash, linewidth=1.2, label=said) for said, c, dash in found]
    if any(line.get_marker() == "x" for ax in axes for line in ax.get_lines()):
        lines.append(Line2D([], [], color=GREY, linestyle="", marker="x", label="diverged"))
    return lines
