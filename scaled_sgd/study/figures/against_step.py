"""Per-layer quantities against step, at the best learning rate: feature ranks and soft ranks."""

from functools import partial

import pandas as pd

from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.per_layer import PerLayer, draw_layer, lacks
from scaled_sgd.study.figures.drawing.style import step_axis
from scaled_sgd.study.figures.reading.over_steps import at_best_rate, last, over_seeds, widest
from scaled_sgd.study.figures.reading.rates import seed_note
from scaled_sgd.study.figures.reading.view import RATE, WIDTH, View
from scaled_sgd.study.figures.reading.words import number, sentence_of, span

STABLE_RANKS = PerLayer(
    "feature_ranks",
    "features.stable",
    "Do hidden features separate?",
    "stable rank",
    "last hidden layer",
    "Stable rank ‖H‖²_F / ‖H‖²₂ of each hidden layer's features on a fixed probe",
)
SOFT_RANKS = PerLayer(
    "soft_ranks",
    "soft_ranks",
    "How many directions does a layer's gradient see?",
    "soft rank S_k",
    "last layer",
    "Soft rank S_k of each layer's gradient on a fixed probe (1: all samples pull the same way)",
)


def draw(view: View, what: PerLayer) -> Drawn:
    """Median and range over seeds, one line per layer."""
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
            data, ending = over_seeds(steps, name), last(steps, name)
            k = draw_layer(ax, name, data, len(names))
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
            way = f"from {number(starts[-1])} to {number(ends[-1])} at η = {number(rate)}"
            parts.append((panel.title, way + _at_lowest_rate(view, panel.runs, layers[-1], rate)))
        step_axis(ax)
    panels.label(axes, "step", what.axis)
    key_of_lines(picture, axes)
    subject = f"In training the {what.axis} of the {what.subject}"
    said = sentence_of(parts, opening=f"{subject} goes ")
    if said is None:
        rises = sum(end > start for start, end in zip(starts, ends, strict=True))
        said = f"{subject} rises in {rises} of {len(ends)} panels, and "
        said += f"ends at {span(ends)} (start: {span(starts)})."
    caption = f"{what.meaning} against step, at the best learning rate; median and range over seeds."
    notes = (*panels.notes, *left_out, *seed_note([row["seeds"] for row in rows]))
    return Drawn(what.name, what.title, said, caption, notes, pd.DataFrame(rows), picture)


def _at_lowest_rate(view: View, runs: pd.DataFrame, column: str, rate: float) -> str:
    """The final values at the lowest rate of the grid, for comparison."""
    lowest = float(runs[RATE].min())
    steps = view.steps(runs[runs[RATE] == lowest], [column])
    if lowest == rate or steps.empty:
        return ""
    return f" (to {number(last(steps, column).median())} at η = {number(lowest)})"


FEATURES, GRADIENTS = (
    Recipe(what.name, what.title, partial(lacks, what=what), partial(draw, what=what))
    for what in (STABLE_RANKS, SOFT_RANKS)
)
