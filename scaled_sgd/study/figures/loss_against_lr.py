"""Does the learning rate transfer: final loss against learning rate, one line per width."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import BAND, GREY, category, log_axis, ordered
from scaled_sgd.study.figures.reading.rates import best, by_rate, end_notes, seed_note
from scaled_sgd.study.figures.reading.transfer import lines_of, name_of, sentence
from scaled_sgd.study.figures.reading.view import DEPTH, FINAL, RATE, WIDTH, View, is_task, label, values
from scaled_sgd.study.figures.reading.words import axis_label, number, spread

_TITLE = "Does the learning rate transfer?"
_CEILING = 3.0
"""Losses above this multiple of the initial loss are drawn at the top edge."""


def lacks(view: View) -> str:
    """A study needs several learning rates with losses."""
    if view.runs[RATE].nunique() < 2:
        return "runs at two learning rates or more"
    return "" if (view.runs[FINAL] < math.inf).any() else "a run that has not diverged"


def draw(view: View) -> Drawn:
    """Median and range over seeds; crosses at the top edge where a seed diverged."""
    line = next((axis for axis in (WIDTH, DEPTH, *view.varied) if axis in view.varied), None)
    panels = Panels.of(view.runs, view.without(line))
    shared = "loss" not in view.varied
    picture, axes = panels.figure(share_y=shared)
    every = values(view.runs, line) if line else [None]
    limits = [_panel(ax, panel.runs, line, every) for ax, panel in zip(axes, panels.shown, strict=True)]
    for ax, (low, high) in zip(axes, limits, strict=True):
        low, high = (min(limits)[0], max(h for _, h in limits)) if shared else (low, high)
        # The crosses of all lines stand above the losses.
        ax.set_ylim(low / 1.15, low / 1.15 * (high / low * 1.15) ** (1.08 + 0.05 * len(every)))
        log_axis(ax, "y")
    panels.label(axes, axis_label(RATE), view.loss_label(view.runs))
    key_of_lines(
        picture,
        axes,
        axis_label(line) if line else "",
        extra=_marks(view.runs, [panel.runs for panel in panels.shown]),
    )
    table = _table(view, line)
    choices = [
        (name_of(panel, line, value), best(rows))
        for panel in panels.shown
        for value, rows in lines_of(panel.runs, line)
    ]
    runs = view.runs.drop_duplicates("id")
    diverged = int((runs["status"] == "diverged").sum())
    notes = [
        *panels.notes,
        *([f"{diverged} of {len(runs)} runs diverged."] if diverged else []),
        *end_notes(choices, "The best learning rate"),
        *seed_note(table["seeds"]),
    ]
    caption = (
        f"Final loss against the learning rate, {spread(view.seeds)}; a star marks the best rate, × at the "
        "top edge a rate at which a seed diverged, "
        f"△ a loss above {number(_CEILING)} times the first."
    )
    return Drawn("loss_against_lr", _TITLE, sentence(panels, line), caption, tuple(notes), table, picture)


def _panel(ax: Axes, runs: pd.DataFrame, line: str | None, every: list[Any]) -> tuple[float, float]:
    """Draw a panel; returns the smallest and the largest loss to show."""
    is_ordered = line is not None and is_task(line)
    first = float(runs["initial_loss"].median())
    ceiling = _CEILING * first
    top = ax.get_xaxis_transform()
    drawn = lines_of(runs, line)
    for value, rows in drawn:
        place = every.index(value)
        look = ordered(place, len(every)) if is_ordered else category(place)
        rates = by_rate(rows)
        # A line does not pass over rates that diverged.
        inside = rates["median"].where(rates["median"] < math.inf)
        ax.plot(rates[RATE], inside, label=label(line, value) if line else "median", **look)
        low, high = (rates[end].where(rates["high"] < math.inf) for end in ("low", "high"))
        ax.fill_between(rates[RATE], low, high, color=look["color"], alpha=BAND, linewidth=0)
        height = 0.985 - 0.045 * place
        for marker, at in (
            ("x", rates[rates["diverged"] > 0]),
            ("^", rates[(rates["median"] > ceiling) & (rates["diverged"] == 0)]),
        ):
            if len(at):
                ax.plot(
                    at[RATE], [height] * len(at), linestyle="", marker=marker, markerfacecolor="none",
                    color=look["color"], transform=top, clip_on=False,
                )  # fmt: skip
        chosen = best(rows)
        if chosen.found:
            ax.plot(
                [chosen.rate], [chosen.median(FINAL)], marker="*", markersize=11, color=look["color"],
                markeredgecolor="white", markeredgewidth=0.7, linestyle="", zorder=5,
            )  # fmt: skip
    ax.axhline(first, color=GREY, linewidth=1, linestyle=":")
    spot = ax.get_subplotspec()
    narrow = spot is not None and spot.get_gridspec().ncols > 2
    log_axis(ax, "x", at=sorted(runs[RATE].unique()), most=4 if narrow else 7)
    finite = runs.loc[runs[FINAL] < ceiling, FINAL]
    floor = finite[finite > 0].min() if (finite > 0).any() else first / 10
    return float(floor), max(first, float(finite.max()) if len(finite) else first)


def _marks(runs: pd.DataFrame, panels: list[pd.DataFrame]) -> list[Line2D]:
    marks = [
        Line2D([], [], color=GREY, linestyle=":", linewidth=1, label="first loss"),
        Line2D([], [], color=GREY, marker="*", markersize=9, linestyle="", label="best rate"),
    ]
    if (runs["status"] == "diverged").any():
        marks.append(Line2D([], [], color=GREY, marker="x", linestyle="", label="a seed diverged"))
    if any(
        ((p[FINAL] > _CEILING * p["initial_loss"].median()) & (p[FINAL] < math.inf)).any() for p in panels
    ):
        marks.append(
            Line2D(
                [], [], color=GREY, marker="^", markerfacecolor="none", linestyle="", label="above the axis"
            )
        )
    return marks


def _table(view: View, line: str | None) -> pd.DataFrame:
    axes = [*view.without(line), *([line] if line else [])]
    rows = []
    for panel in Panels.of(view.runs, axes, most=10**9).shown:
        rates = by_rate(panel.runs)
        named = {axis_label(axis): value for axis, value in zip(axes, panel.key, strict=True)}
        rows += [named | dict(row) for row in rates.to_dict("records")]
    return pd.DataFrame(rows).rename(columns={RATE: axis_label(RATE)})


LOSS_AGAINST_LR = Recipe("loss_against_lr", _TITLE, lacks, draw)
