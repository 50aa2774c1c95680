"""Axes of numbers of both signs: linear around 0, logarithmic beyond."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from scaled_sgd.study.figures.drawing.style import GREY
from scaled_sgd.study.figures.reading.words import number

_WIDE = 10.0
"""Numbers whose largest size is so many times their median have such an axis."""


def around_diagonal(ax: Axes, points: Any) -> None:
    """The diagonal, and axes for 99 % of points (n, 2): rare large ones would hide the others."""
    sizes = np.abs(points)
    limit = float(np.quantile(sizes.max(axis=1), 0.99)) * 1.5 or 1.0
    small = math.floor(math.log10(max(float(np.quantile(sizes, 0.1)), limit * 1e-4)))
    top = float(np.quantile(points[points > 0], 0.99)) * 1.5 if (points > 0).any() else 0.0
    top = min(limit, max(top, 10.0**small))
    ax.axline((0, 0), slope=1, color=GREY, linewidth=1, zorder=1)
    for which in ("x", "y"):
        _signed(ax, which, small, limit)
        (ax.set_xlim if which == "x" else ax.set_ylim)(-limit, top)


def signed_axis(ax: Axes, heights: Any) -> bool:
    """Make y such an axis if the numbers (n,) have both signs and few are much larger than the others."""
    sizes = np.abs(heights[heights != 0])
    if not (heights < 0).any() or not (heights > 0).any() or sizes.max() < _WIDE * np.median(sizes):
        return False
    _signed(ax, "y", math.floor(math.log10(np.median(sizes))), float(sizes.max()))
    return True


def _signed(ax: Axes, which: str, small: int, limit: float) -> None:
    """``10**small`` is where the axis becomes logarithmic."""
    powers = range(small, math.floor(math.log10(limit)) + 1)
    marks = [10.0**power for power in reversed(powers)][:: math.ceil(len(powers) / 2)][::-1]
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("symlog", linthresh=10.0**small)
    axis.set_major_locator(FixedLocator([*(-mark for mark in reversed(marks)), 0, *marks]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1)))
    axis.set_minor_locator(NullLocator())
