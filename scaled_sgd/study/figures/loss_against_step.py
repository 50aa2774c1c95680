"""The minibatch loss against step."""

from dataclasses import dataclass

import pandas as pd

from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import category, curve, log_axis, ordered, step_axis
from scaled_sgd.study.figures.reading.over_steps import at_best_rate, over_seeds, shown_widths, telling_rates
from scaled_sgd.study.figures.reading.rates import seed_note
from scaled_sgd.study.figures.reading.view import (
    RATE,
    SEED,
    STEP_LOSS,
    WIDTH,
    View,
    groups,
    is_task,
    label,
    several_rates,
    values,
)
from scaled_sgd.study.figures.reading.words import number, sentence_of, share, span, spread

_TITLE = "How does the loss fall?"
_MOST_LINES = 12
"""Methods that share a panel; more get a panel each."""


@dataclass(frozen=True)
class _Line:
    """Runs of one value of an axis, at one rate."""

    panel: str
    name: str
    place: int
    rate: float
    steps: pd.DataFrame


def lacks(view: View) -> str:
    """A study needs logged losses."""
    return "" if view.has(STEP_LOSS) else "losses in the metrics"


def draw(view: View) -> Drawn:
    """One line per width where each network has one rate; else per method at its best rate; else per rate."""
    runs, left_out = shown_widths(view)
    axis = _axis(view, runs)
    panels = Panels.of(runs, view.without(WIDTH, axis))
    every = values(runs, axis)
    lines = [line for panel in panels.shown for line in _lines(view, panel.runs, panel.title, axis, every)]
    picture, axes = panels.figure(share_y=False)
    for ax, panel in zip(axes, panels.shown, strict=True):
        for line in (line for line in lines if line.panel == panel.title):
            look = ordered(line.place, len(every)) if _in_order(axis) else category(line.place)
            curve(ax, over_seeds(line.steps, STEP_LOSS), look | {"markersize": 3.5}, label=line.name)
        log_axis(ax, "y")
        step_axis(ax)
    panels.label(axes, "step", "minibatch loss")
    key_of_lines(picture, axes, order=[label(axis, value) for value in every])
    at = "" if axis == RATE or not several_rates(view) else ", at the best learning rate"
    caption = f"Minibatch loss of the logged steps against step{at}; {spread(view.seeds)}."
    notes = (*panels.notes, *left_out, *seed_note([line.steps[SEED].nunique() for line in lines]))
    table = pd.DataFrame([_row(line) for line in lines])
    return Drawn("loss_against_step", _TITLE, _sentence(lines), caption, notes, table, picture)


def _axis(view: View, runs: pd.DataFrame) -> str:
    """The axis whose values are lines."""
    if len(values(runs, WIDTH)) > 1:
        return WIDTH
    methods = [axis for axis in view.methods if 1 < len(values(runs, axis)) <= _MOST_LINES]
    if methods:
        return methods[0]
    return RATE if several_rates(view) else WIDTH


def _in_order(axis: str) -> bool:
    return axis == RATE or is_task(axis)


def _lines(view: View, runs: pd.DataFrame, panel: str, axis: str, every: list[object]) -> list[_Line]:
    chosen = runs[runs[RATE].isin(telling_rates(runs))] if axis == RATE else runs
    found = []
    for (value,), rows in groups(chosen, [axis]):
        best, rate = at_best_rate(rows)
        steps = view.steps(best, [STEP_LOSS])
        if len(steps):
            found.append(_Line(panel, label(axis, value), every.index(value), rate, steps))
    return found


def _rises(line: _Line) -> float:
    """The share of logged steps, after the first, with a larger loss than the one logged before."""
    moves = line.steps.sort_values("step").groupby("id")[STEP_LOSS].diff().dropna()
    return float((moves > 0).mean()) if len(moves) else 0.0


def _ends(line: _Line) -> tuple[float, float]:
    data = over_seeds(line.steps, STEP_LOSS)["median"]
    return float(data.iloc[0]), float(data.iloc[-1])


def _sentence(lines: list[_Line]) -> str:
    if not lines:
        return "No step was logged."
    named: dict[str, list[_Line]] = {}
    for line in lines:
        named.setdefault(line.panel, []).append(line)
    parts = []
    for panel, found in named.items():
        lowest = min(found, key=lambda line: _ends(line)[1])
        start, end = _ends(lowest)
        at = f" at η = {number(lowest.rate)}" if not lowest.name.startswith("η") else ""
        who = f" with {lowest.name}" if len(found) > 1 else ""
        said = f"from {number(start)} to {number(end)}{who}{at}, rising in {share(_rises(lowest))} of steps,"
        parts.append((panel, said))
    text = sentence_of(parts, opening="The minibatch loss falls furthest " if len(lines) > 1 else "It goes ")
    rises = [_rises(line) for line in lines]
    return text or (
        f"The loss ends at {span(_ends(line)[1] for line in lines)}; from one logged step to the next it "
        f"rises in {share(min(rises))} to {share(max(rises))} of them."
    )


def _row(line: _Line) -> dict[str, object]:
    data = over_seeds(line.steps, STEP_LOSS)
    return {
        "panel": line.panel or "all",
        "runs at": line.name,
        "learning rate η": line.rate,
        "first loss": data["median"].iloc[0],
        "last loss": data["median"].iloc[-1],
        "lowest seed": data["low"].iloc[-1],
        "highest seed": data["high"].iloc[-1],
        "share of rises": _rises(line),
        "seeds": line.steps[SEED].nunique(),
    }


LOSS_AGAINST_STEP = Recipe("loss_against_step", _TITLE, lacks, draw)
