"""Columns of the same runs that are to be read against each other, against step."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import GREY, category, curve, log_axis, step_axis
from scaled_sgd.study.figures.reading.over_steps import (
    at_best_rate,
    axes_with_widths,
    late,
    over_seeds,
    said_of_late,
    shown_widths,
)
from scaled_sgd.study.figures.reading.rates import seed_note
from scaled_sgd.study.figures.reading.view import SEED, View
from scaled_sgd.study.figures.reading.words import number, sentence_of, spread


@dataclass(frozen=True)
class ColumnsTogether:
    """A figure of several columns.

    Attributes:
        name: of the figure.
        title: the question it answers.
        axis: the y label.
        names: columns, with what they are called.
        least: how many of them a study needs.
        level: where the dashed line is.
        logarithmic: whether y is.
        meaning: for the caption.
        needs: what a study lacks without them.
    """

    name: str
    title: str
    axis: str
    names: Mapping[str, str]
    least: int
    level: float
    logarithmic: bool
    meaning: str
    needs: str


def lacks(view: View, figure: ColumnsTogether) -> str:
    """A study needs some of the columns."""
    return "" if len(_measured(view, figure)) >= figure.least else figure.needs


def draw(view: View, figure: ColumnsTogether) -> Drawn:
    """A panel for each method at its best rate, and for each width; a line for each column."""
    columns = _measured(view, figure)
    runs, left_out = shown_widths(view)
    panels = Panels.of(runs, axes_with_widths(view, runs))
    picture, axes = panels.figure(share_y=False)
    parts, rows, seeds = [], [], []
    for ax, panel in zip(axes, panels.shown, strict=True):
        best, rate = at_best_rate(panel.runs)
        steps = view.steps(best, columns)
        seeds.append(steps[SEED].nunique())
        ax.axhline(figure.level, color=GREY, linestyle=(0, (4, 2)), linewidth=1.2)
        medians = {}
        for place, column in enumerate(columns):
            data, values = over_seeds(steps, column), late(steps, column)
            data = data[data["median"] > 0] if figure.logarithmic else data
            if len(data):
                curve(ax, data, category(place) | {"markersize": 3.5}, label=figure.names[column])
            if len(values):
                medians[column] = float(np.median(values))
        if figure.logarithmic:
            log_axis(ax, "y")
        step_axis(ax)
        known = [f"{number(median)} ({figure.names[column]})" for column, median in medians.items()]
        if known:
            parts.append((panel.title, f"{', '.join(known)} at η = {number(rate)}"))
        rows.append(
            {"panel": panel.title or "all", "learning rate η": rate}
            | {f"{figure.names[column]}, late median": median for column, median in medians.items()}
        )
    panels.label(axes, "step", figure.axis)
    key_of_lines(picture, axes, order=[figure.names[column] for column in columns])
    said = sentence_of(parts, opening="In the last half of training they are in the median ")
    caption = f"{figure.meaning}, at the best learning rate; {spread(view.seeds)}."
    notes = (*panels.notes, *left_out, *seed_note(seeds))
    return Drawn(
        figure.name,
        figure.title,
        said_of_late(said or "The table has each panel.", runs),
        caption,
        notes,
        pd.DataFrame(rows),
        picture,
    )


def _measured(view: View, figure: ColumnsTogether) -> list[str]:
    return [column for column in figure.names if view.has(column)]


_EDGES = ColumnsTogether(
    "edge_ratios",
    "How far from their edge are the steps, by each measure?",
    "edge ratio",
    {
        "edge_ratio": "edge ratio of λ",
        "directional_edge_ratio": "ρ along the step",
        "critical_edge_ratio": "η/η_c",
        "generalized_edge_ratio": "generalised",
        "adam_edge_ratio": "AdamW's",
    },
    2,
    1.0,
    True,
    "Edge ratios of the same runs against step, as far as measured: of the sharpness λ, of the curvature "
    "along the step, of the critical rate η_c, of the curvature in the norm of the step, of AdamW's "
    "sharpness. The dashed line is 1, the edge of each",
    "two edge ratios in the metrics (diagnostics.every; critical_rate, generalized_sharpness or "
    "adam_sharpness in diagnostics.quantities)",
)
_CHANGES = ColumnsTogether(
    "sharpness_change",
    "Do third derivatives predict how sharpness changes?",
    "change of λ",
    {"sharpness_change": "measured", "predicted_sharpness_change": "predicted"},
    2,
    0.0,
    False,
    "Change of the largest eigenvalue λ of the Hessian on a fixed probe between measurements, and "
    "½⟨∇λ + ∇λ', θ − θ'⟩ from its gradients at both",
    "third_order in diagnostics.quantities",
)
EDGE_RATIOS, SHARPNESS_CHANGE = (
    Recipe(figure.name, figure.title, partial(lacks, figure=figure), partial(draw, figure=figure))
    for figure in (_EDGES, _CHANGES)
)
