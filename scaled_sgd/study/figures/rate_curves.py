"""A chosen learning rate against width or depth, one line per method; shared by two figures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import GREY, category, log_axis, spread_out
from scaled_sgd.study.figures.reading.rates import ChosenRate
from scaled_sgd.study.figures.reading.view import (
    DEPTH,
    FINAL,
    RATE,
    WIDTH,
    View,
    groups,
    label,
    title,
    values,
)
from scaled_sgd.study.figures.reading.words import (
    axis_label,
    axis_name,
    listing,
    number,
    sentence_of,
    shortened,
    span,
    times,
)


def along(axis: str) -> str:
    """The name of an axis in sentences."""
    names = {"model.base_width": "width", "model.depth": "depth"}
    return names.get(axis, axis_name(axis))


_ENDINGS = {
    "final loss": FINAL,
    "held-out loss": "eval_loss",
    "accuracy": "accuracy",
    "edge ratio": "late_edge_ratio",
}
MOST_LINES = 7
"""Largest number of lines in a panel: more methods get a panel each."""


@dataclass(frozen=True)
class Series:
    """Choices along one axis for one method of one panel.

    Attributes:
        panel: the panel as text.
        method: the method as text.
        points: values of the axis and the rate chosen at each.
    """

    panel: str
    method: str
    points: tuple[tuple[Any, ChosenRate], ...]

    @property
    def name(self) -> str:
        """The series as text; empty for a single one."""
        return " · ".join(part for part in (self.method, self.panel) if part)

    @property
    def rates(self) -> list[float]:
        """The rates that were found."""
        return [choice.rate for _, choice in self.points if choice.found]


@dataclass(frozen=True)
class Curves:
    """Chosen rates along one axis.

    Attributes:
        axis: WIDTH, DEPTH or another varied axis.
        series: the drawn series.
        all: all series, including those of omitted panels.
        panels: the panels of the figure.
        method: the axis whose values are lines, if any.
    """

    axis: str
    series: tuple[Series, ...]
    all: tuple[Series, ...]
    panels: Panels
    method: str | None

    @classmethod
    def of(cls, view: View, axis: str, choose: Callable[[pd.DataFrame], ChosenRate]) -> "Curves":
        """The choices of a study along ``axis``."""
        rest = [a for a in view.without(axis) if len(values(view.runs, a)) <= MOST_LINES]
        method = next((a for a in rest if a in view.methods), rest[0] if rest else None)
        panels = Panels.of(view.runs, view.without(axis, method))
        drawn = [s for panel in panels.shown for s in _series(panel.runs, panel.title, axis, method, choose)]
        every = [
            s
            for key, runs in groups(view.runs, view.without(axis, method))
            for s in _series(runs, title(view.without(axis, method), key), axis, method, choose)
        ]
        return cls(axis, tuple(drawn), tuple(every), panels, method)

    @property
    def choices(self) -> list[tuple[str, ChosenRate]]:
        """Every choice with its name."""
        return [
            (" · ".join(part for part in (s.name, label(self.axis, x)) if part), choice)
            for s in self.all
            for x, choice in s.points
        ]

    def draw(self, view: View, y_label: str) -> Figure:
        """Draw the curves: hollow marks at ends of the grid, bars from the lowest to the highest seed."""
        picture, axes = self.panels.figure(share_y=True)
        methods = [label(self.method, m) for m in values(view.runs, self.method)] if self.method else [""]
        grid = sorted(view.runs[RATE].unique())
        for ax, panel in zip(axes, self.panels.shown, strict=True):
            for s in self.series:
                if s.panel == panel.title:
                    _line(ax, s, self._places(view, s), methods)
            if self.axis in (WIDTH, DEPTH):
                log_axis(ax, "x", at=values(panel.runs, self.axis))
                ax.set_xlim(*_limits(values(panel.runs, self.axis)))
            else:
                every = values(view.runs, self.axis)
                ax.set_xticks(range(len(every)), [shortened(str(value), 18) for value in every])
            log_axis(ax, "y", at=[rate for rate in grid if rate > 0])
            ax.set_ylim(*_limits([rate for rate in grid if rate > 0]))
        self.panels.label(axes, axis_label(self.axis), y_label)
        hollow = Line2D(
            [], [], color=GREY, marker="o", markerfacecolor="white", linestyle="", label="end of the grid"
        )
        ends = any(choice.end for _, choice in self.choices)
        key_of_lines(picture, axes, extra=[hollow] if ends else [])
        return picture

    def _places(self, view: View, series: Series) -> list[float]:
        """Where the points of a series lie on the axis: at their numbers, or in their order."""
        if self.axis in (WIDTH, DEPTH):
            return [x for x, _ in series.points]
        every = values(view.runs, self.axis)
        return [float(every.index(x)) for x, _ in series.points]

    def sentence(self, what: str) -> str:
        """A sentence that says whether the chosen rate is constant along the axis."""
        name = along(self.axis)
        parts = [(s.name, self._fate(s)) for s in self.all]
        said = sentence_of(parts, opening=f"{what} ")
        if said is not None:
            return said
        still = [s for s in self.all if len(s.rates) == len(s.points) and len(set(s.rates)) == 1]
        moved = [s for s in self.all if len(s.rates) == len(s.points) and s not in still]
        missing = len(self.all) - len(still) - len(moved)
        fates = [f"is the same at every {name} in {len(still)} of {len(self.all)} series"]
        if 0 < len(still) < len(self.all):
            fates[0] += f" ({listing([s.name for s in still])})"
        if moved:
            most = max(max(s.rates) / min(s.rates) for s in moved)
            fates.append(f"moves by up to {times(most)} in {len(moved)}")
        if missing:
            fates.append(f"does not exist at some {name} in {missing}")
        opening = f"{what} {listing(fates)}"
        by_method: dict[str, list[float]] = {}
        for s in self.all:
            by_method.setdefault(s.method, []).extend(s.rates)
        if self.method is None or len(by_method) > 4:
            return f"{opening}."
        ranges = [f"{m} {span(rates)}" if rates else f"{m} none" for m, rates in by_method.items()]
        return f"{opening}; over all of them it is {', '.join(ranges)}."

    def table(self) -> pd.DataFrame:
        """One row per point, of all panels, with medians over the seeds at the chosen rate."""
        rows = [
            {
                "series": s.name or "all",
                axis_label(self.axis): x,
                "learning rate η": choice.rate,
                "lowest seed": choice.low,
                "highest seed": choice.high,
                "end of the grid": choice.end,
                "seeds": choice.seeds,
                **{name: choice.median(column) for name, column in _ENDINGS.items()},
            }
            for s in self.all
            for x, choice in s.points
        ]
        return pd.DataFrame(rows)

    def _fate(self, series: Series) -> str:
        name, rates = along(self.axis), series.rates
        (first, start), (last, end) = series.points[0], series.points[-1]
        if not rates:
            return "does not exist"
        if len(rates) < len(series.points):
            missing = len(series.points) - len(rates)
            kinds = f"{name}s" if self.axis in (WIDTH, DEPTH) else f"values of {name}"
            without = f"{missing} of {len(series.points)} {kinds}"
            return f"is {span(rates)}, and does not exist at {without}"
        if len(set(rates)) == 1:
            return f"is {number(rates[0])} at every {name} from {_text(first)} to {_text(last)}"
        if start.rate == end.rate:
            there = number(start.rate)
            return f"is {there} at {name} {_text(first)} and {_text(last)}, and {span(rates)} between them"
        return (
            f"moves by {times(max(rates) / min(rates))}, from {number(start.rate)} at {name} "
            f"{_text(first)} to {number(end.rate)} at {name} {_text(last)}"
        )


def _text(value: Any) -> str:
    """A value of the axis in a sentence, without the axis's name."""
    return value.rpartition(" ")[2] if isinstance(value, str) else number(value)


def _series(
    runs: pd.DataFrame,
    panel: str,
    axis: str,
    method: str | None,
    choose: Callable[[pd.DataFrame], ChosenRate],
) -> list[Series]:
    found = []
    for key, rows in groups(runs, [method] if method else []):
        points = tuple((x, choose(here)) for (x,), here in groups(rows, [axis]))
        found.append(Series(panel, label(method, key[0]) if method else "", points))
    return found


def _line(ax: Axes, series: Series, places: list[float], methods: list[str]) -> None:
    place = methods.index(series.method)
    look = category(place)
    found = [(x, c) for x, (_, c) in zip(places, series.points, strict=True) if c.found]
    x = [value * spread_out(place, len(methods)) for value, _ in found]
    y = [choice.rate for _, choice in found]
    ax.plot(x, y, label=series.method or None, **look)
    bars = [[c.rate - c.low for _, c in found], [c.high - c.rate for _, c in found]]
    ax.errorbar(x, y, yerr=bars, fmt="none", ecolor=look["color"], elinewidth=1, capsize=2.5, alpha=0.7)
    for at, (_, choice) in zip(x, found, strict=True):
        if choice.end:
            ax.plot(
                [at], [choice.rate], marker=look["marker"], color=look["color"], markerfacecolor="white",
                linestyle="", zorder=4,
            )  # fmt: skip


def _limits(grid: list[float]) -> tuple[float, float]:
    room = 1.25 if len(grid) > 1 else 2.0
    return grid[0] / room, grid[-1] * room
