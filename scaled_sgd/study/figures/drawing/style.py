"""Style of figures: sizes, colours that are safe for colour blindness, ticks as plain numbers."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from scaled_sgd.study.figures.reading.words import number

STYLE: dict[str, Any] = {
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "font.family": "sans-serif",
    # The others are for readers of an SVG, whose text is text.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 3.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "text.color": "#222222",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "scaled_sgd",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    # Names of methods may contain a dollar sign that does not start mathematics.
    "text.parse_math": False,
}
PNG_DPI = 200
WIDTH_INCHES = 9.4
BAND = 0.16
"""Opacity of the band between the smallest and the largest seed."""
GREY = "#777777"
MOST_MARKERS = 20
"""Markers of a curve: long ones have one every few points."""

_CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "p", "D", "v", "P", "X")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))


def set_mathtext(text: Text, written: str) -> None:
    """Show a text of the package with ``S_k``, ``m^s`` and ``t^−0.67`` as mathematics.

    Other texts are not parsed, since names that users choose may contain dollar signs, and an SVG has a
    parsed text letter by letter.
    """
    symbol = r"((?<!\w)[A-Za-zΑ-ω]|‖)([_^])(\w|(?<=\^)−?[\d.½⅔]+)(?!\w)"
    if re.search(symbol, written):
        written = re.sub(symbol, r"$\1\2{\3}$", written.replace("$", r"\$"))
        text.set_parse_math(True)
    text.set_text(written)


def category(position: int) -> dict[str, Any]:
    """Colour, marker and line of the ``position``-th of several unordered items."""
    return {
        "color": _CATEGORIES[position % 7],
        "marker": _MARKERS[position % 7],
        "linestyle": _DASHES[position // 7 % 3],
    }


def ordered(position: int, count: int) -> dict[str, Any]:
    """Colour and marker of the ``position``-th of ``count`` ordered items, from dark to light."""
    place = 0.0 if count == 1 else 0.86 * position / (count - 1)
    return {"color": colormaps["viridis"](place), "marker": _MARKERS[position % 7]}


def curve(ax: Axes, data: pd.DataFrame, look: dict[str, Any], *, label: str | None) -> None:
    """The column ``median`` against the index, with a band from ``low`` to ``high``."""
    stride = max(1, math.ceil(len(data) / MOST_MARKERS))
    ax.plot(data.index, data["median"], label=label, markevery=stride, **look)
    ax.fill_between(data.index, data["low"], data["high"], color=look["color"], alpha=BAND, linewidth=0)


def draw_line(ax: Axes, data: pd.DataFrame, lines: Mapping[str, str], name: str, *, size: float) -> None:
    """The line of ``name``, one of several in order, each with its label."""
    look = ordered(list(lines).index(name), len(lines))
    curve(ax, data, look | {"markersize": size}, label=lines[name] or None)


def log_axis(ax: Axes, which: str, *, at: Sequence[float] = (), most: int = 9) -> None:
    """Make an axis logarithmic with plain numbers, with ticks at the given values if there are any.

    An axis without positive numbers is not changed.
    """
    if math.isinf(ax.dataLim.minposx if which == "x" else ax.dataLim.minposy):
        return
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    if len(at):
        axis.set_major_locator(FixedLocator(_apart(at, most)))
        axis.set_minor_locator(NullLocator())
    else:
        low, high = sorted(ax.get_xlim() if which == "x" else ax.get_ylim())
        decades = math.log10(high) - math.log10(low) if low > 0 else 9
        subs = (1, 2, 3, 5, 7) if decades < 1.0 else (1, 2, 5) if decades < 2.5 else (1,)
        narrow = decades < 0.5
        axis.set_major_locator(MaxNLocator(nbins=4) if narrow else LogLocator(base=10, subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())


def _apart(at: Sequence[float], most: int) -> list[float]:
    """As many of these ascending places as stand apart on a logarithmic axis, the first among them."""
    room = 0.99 * math.log(at[-1] / at[0]) / max(most - 1, 1)
    kept = [at[0]]
    for place in at[1:]:
        if math.log(place / kept[-1]) >= room:
            kept.append(place)
    return kept


def step_axis(ax: Axes) -> None:
    """Integer ticks for an axis of counts."""
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def spread_out(position: int, count: int) -> float:
    """A factor for x on a logarithmic axis that separates ``count`` markers at the same place."""
    by = min(0.035, 0.2 / count)
    return math.exp(by * (position - (count - 1) / 2))
