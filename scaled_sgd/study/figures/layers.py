"""A quantity of every layer against step, at the best learning rate: feature ranks and soft ranks."""

from dataclasses import dataclass
from functools import partial

import pandas as pd

from scaled_sgd.study.figures.drawn import Drawn, Recipe
from scaled_sgd.study.figures.over_steps import at_best_rate, curve, last, over_seeds, widest
from scaled_sgd.study.figures.panels import Panels, key_of_lines
from scaled_sgd.study.figures.rates import seed_note
from scaled_sgd.study.figures.style import ordered, step_axis
from scaled_sgd.study.figures.view import RATE, WIDTH, View
from scaled_sgd.study.figures.words import number, sentence_of, span


@dataclass(frozen=True)
class Layered:
    """A quantity per layer.

    Attributes:
        name: of the figure.
        prefix: of its columns.
        title: the question.
        axis: its y label.
        deepest: what its last layer is called.
        meaning: for the caption.
    """

    name: str
    prefix: str
    title: str
    axis: str
    deepest: str
    meaning: str


STABLE_RANKS = Layered(
    "feature_ranks",
    "features.stable",
    "Do hidden features separate?",
    "stable rank",
    "last hidden layer",
    "Stable rank ‖H‖²_F / ‖H‖²₂ of each hidden layer's features on a fixed probe",
)
SOFT_RANKS = Layered(
    "soft_ranks",
    "soft_ranks",
    "How many directions does a layer's gradient see?",
    "soft rank S_k",
    "last layer",
    "Soft rank S_k of each layer's gradient on a fixed probe (1: all samples pull the same way)",
)


def lacks(view: View, what: Layered) -> str:
    """A study needs the quantity in its metrics."""
    return "" if view.layered(what.prefix) else f"{what.prefix} in the metrics (diagnostics.every)"


def draw(view: View, what: Layered) -> Drawn:
    """Median and range over seeds, a line a layer."""
    names = view.layered(what.prefix)
    runs, left_out = widest(view, view.runs)
    panels = Panels.of(runs, view.without(WIDTH))
    picture, axes = panels.figure(share_y=False)
    parts: list[tuple[str, str]] = []
    rows: list[dict[str, object]] = []
    starts, ends = [], []
    for ax, panel in zip(axes, panels.shown, strict=True):
        chosen, rate = at_best_rate(panel.runs)
        steps = view.steps(chosen, names)
        layers = [name for name in names if steps[name].notna().any()]
        for name in layers:
            k = int(name.rpartition(".")[2])
            data = over_seeds(steps, name)
            curve(ax, data, ordered(k - 1, len(names)), label=f"layer {k}")
            ending = last(steps, name)
            rows.append(
                {
                    "panel": panel.title or "all",
                    "layer": k,
                    "learning rate η": rate,
                    "at the start": data["median"].iloc[0],
                    "at the end": ending.median(),
                    "lowest seed": ending.min(),
                    "highest seed": ending.max(),
                    "seeds": ending.size,
                }
            )
        if layers:
            deepest = over_seeds(steps, layers[-1])["median"]
            starts.append(float(deepest.iloc[0]))
            ends.append(float(deepest.iloc[-1]))
            slowest = _slowest(view, panel.runs, layers[-1], rate)
            parts.append(
                (
                    panel.title,
                    f"from {number(starts[-1])} to {number(ends[-1])} at η = {number(rate)}{slowest}",
                )
            )
        step_axis(ax)
    panels.label(axes, "step", what.axis)
    key_of_lines(picture, axes)
    said = sentence_of(parts, opening=f"In training the {what.axis} of the {what.deepest} goes ")
    if said is None:
        rises = sum(end > start for start, end in zip(starts, ends, strict=True))
        said = (
            f"In training the {what.axis} of the {what.deepest} rises in {rises} of {len(ends)} panels, and "
            f"ends at {span(ends)} (start: {span(starts)})."
        )
    caption = f"{what.meaning} against step, at the best learning rate; median and range over seeds."
    notes = [note for note in (panels.left_out, left_out) if note]
    notes += seed_note([row["seeds"] for row in rows])
    return Drawn(what.name, what.title, said, caption, tuple(notes), pd.DataFrame(rows), picture)


def _slowest(view: View, runs: pd.DataFrame, column: str, rate: float) -> str:
    """The same at the lowest rate of the grid, for comparison."""
    lowest = float(runs[RATE].min())
    if lowest == rate:
        return ""
    steps = view.steps(runs[runs[RATE] == lowest], [column])
    if steps.empty:
        return ""
    return f" (to {number(last(steps, column).median())} at η = {number(lowest)})"


FEATURE_RECIPE, SOFT_RECIPE = (
    Recipe(what.name, what.title, partial(lacks, what=what), partial(draw, what=what))
    for what in (STABLE_RANKS, SOFT_RANKS)
)
