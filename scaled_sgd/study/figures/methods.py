"""Which method ends with the lowest loss, each at its own best learning rate?"""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panels
from scaled_sgd.study.figures.drawing.style import category, log_axis
from scaled_sgd.study.figures.reading.rates import ChosenRate, best, end_notes, seed_note
from scaled_sgd.study.figures.reading.view import FINAL, RATE, View, groups, title
from scaled_sgd.study.figures.reading.words import listing, number, shortened

_TITLE = "Which method ends lowest at its own best learning rate?"

_SPREAD = "of every seed (points), from the lowest to the highest (bar) with the median (line)"

_ALIKE = 1e-3
"""Losses with a smaller relative difference count as equal."""


@dataclass(frozen=True)
class _Entry:
    """A method on the network of one panel, with the ids of its runs."""

    panel: str
    method: str
    choice: ChosenRate
    ids: frozenset[str]

    @property
    def losses(self) -> list[float]:
        return sorted(self.choice.runs[FINAL]) if self.choice.found else []


def lacks(view: View) -> str:
    """A study needs several methods."""
    return "" if view.methods and len(_names(view)) > 1 else "two methods or more"


def draw(view: View) -> Drawn:
    """One point per seed, a bar from the lowest to the highest, a line at the median."""
    names = _names(view)
    tasks = view.without(*view.methods)
    panels = Panels.of(view.runs, tasks)
    # Every network counts in the sentence and the table, even without a panel.
    entries = [
        _Entry(title(tasks, key), title(view.methods, method), best(rows), frozenset(rows["id"]))
        for key, runs in groups(view.runs, tasks)
        for method, rows in groups(runs, view.methods)
    ]
    titles = {panel.title: title(tasks, _key(panel.runs, tasks)) for panel in panels.shown}
    picture, axes = panels.figure(share_y=True)
    for ax, panel in zip(axes, panels.shown, strict=True):
        _panel(ax, [e for e in entries if e.panel == titles[panel.title]], names)
    width, _ = picture.get_size_inches()
    rows = len(axes) / panels.columns
    picture.set_size_inches(width, 0.6 + rows * (0.6 + 0.3 * len(names)))
    panels.label(axes, view.loss_label(view.runs), "")
    notes = [
        *panels.notes,
        *end_notes([(_both(e), e.choice) for e in entries], "The best learning rate"),
        *seed_note([e.choice.seeds for e in entries if e.choice.found]),
    ]
    caption = (
        f"The {view.objective} {_SPREAD if view.seeds > 1 else 'of one seed'}, each method at the rate with "
        f"the lowest{' median' if view.seeds > 1 else ''}. The loss that is shown chose the rate."
    )
    return Drawn("methods", _TITLE, _sentence(entries), caption, tuple(notes), _table(entries), picture)


def _names(view: View) -> list[str]:
    return [title(view.methods, key) for key, _ in groups(view.runs, view.methods)]


def _key(runs: pd.DataFrame, axes: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(runs[axis].iloc[0] for axis in axes)


def _both(entry: _Entry) -> str:
    return " · ".join(part for part in (entry.method, entry.panel) if part)


def _panel(ax: Axes, entries: list[_Entry], names: list[str]) -> None:
    for entry in entries:
        y = names.index(entry.method)
        color = category(y)["color"]
        losses = [loss for loss in entry.losses if loss < math.inf]
        ax.plot(
            [losses[0], losses[-1]] if losses else [],
            [y, y] if losses else [],
            color=color,
            linewidth=4,
            alpha=0.3,
        )
        ax.plot(losses, [y] * len(losses), linestyle="", marker="o", markersize=4, color=color, alpha=0.8)
        if losses:
            middle = entry.choice.median(FINAL)
            ax.plot([middle, middle], [y - 0.3, y + 0.3], color=color, linewidth=2)
            rate = f"η = {number(entry.choice.rate)}"
            place: dict[str, Any] = {"xy": (losses[-1], y), "xytext": (6, 0), "textcoords": "offset points"}
            if losses[-1] == 0:
                rate, place = f"0, {rate}", {"xy": (0.02, y), "xycoords": ("axes fraction", "data")}
            ax.annotate(rate, va="center", fontsize=7, **place)
        else:
            ax.annotate(
                "every rate diverged", (0.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=8
            )
    ax.set_yticks(range(len(names)), [shortened(name, 26) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    found = [loss for entry in entries for loss in entry.losses if 0 < loss < math.inf]
    if found:
        # The rates are printed to the right of the points.
        span = max(max(found) / min(found), 1.5)
        ax.set_xlim(min(found) / span**0.06, max(found) * span**0.3)
        log_axis(ax, "x")


def _sentence(entries: list[_Entry]) -> str:
    titles: dict[str, list[_Entry]] = {}
    for entry in entries:
        titles.setdefault(entry.panel, []).append(entry)
    # A network in two matchings counts once; a network with a single method does not count.
    several = [found for found in titles.values() if len(found) > 1]
    panels = {frozenset[str]().union(*(e.ids for e in found)): found for found in several}
    if not panels:
        return "No network has runs of two methods yet."
    alone = all(e.choice.seeds <= 1 for e in entries)
    a_median = "" if alone else "a median of "
    winners: dict[str, int] = {}
    clear = decided = 0
    one = ""
    for found in panels.values():
        ranked = sorted((e for e in found if e.choice.found), key=lambda e: e.choice.median(FINAL))
        if not ranked:
            continue
        decided += 1
        lowest = ranked[0].choice.median(FINAL)
        equal = [e for e in ranked if e.choice.median(FINAL) <= lowest * (1 + _ALIKE)]
        names = " = ".join(e.method for e in equal)
        winners[names] = winners.get(names, 0) + 1
        first, second = ranked[0], next(iter(ranked[len(equal) :]), None)
        apart = second is not None and max(e.losses[-1] for e in equal) < second.losses[0]
        clear += apart
        if second is not None:
            one = (
                f"{names} ends lowest, at {a_median}{number(first.choice.median(FINAL))} "
                f"(η = {number(first.choice.rate)}), before {second.method} at "
                f"{number(second.choice.median(FINAL))} (η = {number(second.choice.rate)})"
                + ("." if alone else f"; their seeds {'do not overlap' if apart else 'overlap'}.")
            )
        else:
            one = (
                f"{names} end alike, at {a_median}{number(lowest)}."
                if len(equal) > 1
                else f"Only {names} has a rate that does not diverge."
            )
    if not decided:
        return "Every method diverged at every rate."
    if len(panels) == 1:
        return one
    ranking = sorted(winners.items(), key=lambda item: -item[1])
    said = listing([f"{method} in {wins}" for method, wins in ranking])
    return (
        f"Of {len(panels)} networks the lowest loss, one seed each, is that of {said}."
        if alone
        else f"Of {len(panels)} networks the lowest median loss is that of {said}; its seeds are all below "
        f"those of the second in {clear if clear else 'none'}."
    )


def _table(entries: list[_Entry]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "network": e.panel or "all",
            "method": e.method,
            "learning rate η": e.choice.rate,
            "end of the grid": e.choice.end,
            "final loss": e.choice.median(FINAL),
            "lowest seed": e.losses[0] if e.losses else math.nan,
            "highest seed": e.losses[-1] if e.losses else math.nan,
            "held-out loss": e.choice.median("eval_loss"),
            "accuracy": e.choice.median("accuracy"),
            "stable": bool(e.choice.found and e.choice.runs["stable"].all()),
            "seeds": e.choice.seeds,
        }
        for e in entries
    ).rename(columns={RATE: "learning rate η"})


METHODS = Recipe("methods", _TITLE, lacks, draw)
