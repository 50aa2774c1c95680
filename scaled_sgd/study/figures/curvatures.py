"""Sharpness, that of minibatches, and that of the Hessian's parts, of the same runs against step."""

import pandas as pd
from matplotlib.lines import Line2D

from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import GREY, category, curve, log_axis, step_axis
from scaled_sgd.study.figures.reading.edges import edge_formula, median_edge, no_edge_notes, steps_with_edges
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
from scaled_sgd.study.figures.reading.words import listing, number, sentence_of, spread
from scaled_sgd.study.tables.edges import edge_of

_TITLE = "Which curvature is at the edge of stability?"
_OF_H = ("sharpness", "batch_sharpness", "gauss_newton_sharpness", "feature_sharpness")
"""Curvatures in the units of H, which share the edge of the sharpness."""

_NAMES = {
    "sharpness": "λ of H",
    "batch_sharpness": "batch sharpness",
    "gauss_newton_sharpness": "λ of G",
    "feature_sharpness": "λ of H − G",
    "preconditioned_sharpness": "preconditioned λ",
    "adam_sharpness": "AdamW's λ",
    "generalized_sharpness": "generalised sharpness",
}
_EDGES = {
    "adam_sharpness": "(1 + β1)(2 − ηλ_w)/((1 − β1)η)",
    "generalized_sharpness": "2‖∇L‖_*/(ηc)",
}


def lacks(view: View) -> str:
    """A study needs sharpness and one of the others."""
    if not view.has("sharpness"):
        return "sharpness in the metrics (diagnostics.every)"
    if not any(view.has(column) for column in _OF_H[1:]):
        return "batch_sharpness or gauss_newton in diagnostics.quantities"
    return ""


def draw(view: View) -> Drawn:
    """A panel for each method at its best rate, and for each width; a line for each curvature."""
    measured = [column for column in _NAMES if view.has(column)]
    runs, left_out = shown_widths(view)
    panels = Panels.of(runs, axes_with_widths(view, runs))
    picture, axes = panels.figure(share_y=False)
    parts, rows, seeds, without = [], [], [], []
    of_edge: dict[str, dict[str, None]] = {}
    for ax, panel in zip(axes, panels.shown, strict=True):
        best, rate = at_best_rate(panel.runs)
        steps = steps_with_edges(view, best, measured)
        seeds.append(steps[SEED].nunique())
        edged = _edged(steps)
        columns = [c for c in measured if c in _OF_H or c == edged]
        ratios = {}
        for column in columns:
            data = over_seeds(steps, column)
            # G often hides H: a wide line stays visible below it.
            look = category(list(_NAMES).index(column)) | {
                "markersize": 3.5,
                "linewidth": 4.0 if column == "sharpness" else 1.6,
            }
            curve(ax, data[data["median"] > 0], look, label=_NAMES[column])
            of = "sharpness" if column in _OF_H else column
            ratios[column] = _late_ratio(steps.assign(ratio=steps[column] / edge_of(steps, of)))
        if edged:
            edge = median_edge(steps, edged)
            color = GREY if edged == "sharpness" else category(list(_NAMES).index(edged))["color"]
            ax.plot(edge.index, edge, color=color, linestyle=(0, (4, 2)), linewidth=1.2)
            of_edge.setdefault(_EDGES.get(edged) or edge_formula(view, runs), {})[_NAMES[edged]] = None
        else:
            without.append((panel.title, steps))
        log_axis(ax, "y")
        step_axis(ax)
        known = [f"{number(ratio)} ({_NAMES[c]})" for c, ratio in ratios.items() if ratio is not None]
        if known:
            parts.append((panel.title, f"{', '.join(known)} at η = {number(rate)}"))
        rows.append(
            {"panel": panel.title or "all", "learning rate η": rate}
            | {f"{_NAMES[column]} over the edge, late median": ratio for column, ratio in ratios.items()}
        )
    panels.label(axes, "step", "curvature")
    name = next(iter(of_edge)) if len(of_edge) == 1 else "the edge"
    dashes = [Line2D([], [], color=GREY, linestyle=(0, (4, 2)), linewidth=1.2, label=name)]
    key_of_lines(picture, axes, order=list(_NAMES.values()), extra=dashes if of_edge else ())
    said = sentence_of(
        parts, opening="In the last half of training, over the edge and in the median, they are "
    )
    edges = "; ".join(f"{formula} for {listing(list(names))}" for formula, names in of_edge.items())
    caption = (
        "Largest eigenvalues λ of the Hessian H, its Gauss–Newton part G and H − G on a fixed probe, and "
        "batch sharpness, the mean over fresh minibatches of gᵀHg/‖g‖² along their gradients g, as far as "
        f"measured, at the best learning rate; {spread(view.seeds)}."
        + (f" The dashed line is the edge of stability: {edges}." if edges else "")
    )
    notes = (*panels.notes, *left_out, *no_edge_notes(without), *seed_note(seeds))
    said = said_of_late(said or "The table has each panel.", runs)
    return Drawn("curvatures", _TITLE, said, caption, notes, pd.DataFrame(rows), picture)


def _edged(steps: pd.DataFrame) -> str:
    """The measured curvature whose edge is that of the steps; empty where there is none."""
    order = ("sharpness", "preconditioned_sharpness", "adam_sharpness", "generalized_sharpness")
    return next((column for column in order if edge_of(steps, column).notna().any()), "")


def _late_ratio(steps: pd.DataFrame) -> float | None:
    """The median of ``ratio`` in the last half of training."""
    values = late(steps, "ratio")
    return float(pd.Series(values).median()) if len(values) else None


CURVATURES = Recipe("curvatures", _TITLE, lacks, draw)
