"""Sharpness, that of minibatches, and that of the Hessian's parts, of the same runs against step."""

import pandas as pd
from matplotlib.lines import Line2D

from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import GREY, category, curve, log_axis, step_axis
from scaled_sgd.study.figures.reading.over_steps import at_best_rate, late, over_seeds, said_of_late, widest
from scaled_sgd.study.figures.reading.rates import seed_note
from scaled_sgd.study.figures.reading.view import SEED, WIDTH, View
from scaled_sgd.study.figures.reading.words import number, sentence_of, spread

_TITLE = "Which curvature is at the edge of stability?"
_NAMES = {
    "sharpness": "λ of H",
    "batch_sharpness": "batch sharpness",
    "gauss_newton_sharpness": "λ of G",
    "feature_sharpness": "λ of H − G",
}


def lacks(view: View) -> str:
    """A study needs sharpness and one of the others."""
    if not view.has("sharpness"):
        return "sharpness in the metrics (diagnostics.every)"
    if not any(view.has(column) for column in _NAMES if column != "sharpness"):
        return "batch_sharpness or gauss_newton in diagnostics.quantities"
    return ""


def draw(view: View) -> Drawn:
    """A panel for each method at its best rate and largest width, a line for each curvature."""
    columns = [column for column in _NAMES if view.has(column)]
    runs, left_out = widest(view, view.runs)
    panels = Panels.of(runs, view.without(WIDTH))
    picture, axes = panels.figure(share_y=False)
    parts, rows, seeds = [], [], []
    for ax, panel in zip(axes, panels.shown, strict=True):
        best, rate = at_best_rate(panel.runs)
        steps = view.steps(best, columns)
        seeds.append(steps[SEED].nunique())
        ratios = {}
        for place, column in enumerate(columns):
            data = over_seeds(steps, column)
            # G often hides H: a wide line stays visible below it.
            look = category(place) | {"markersize": 3.5, "linewidth": 4.0 if column == "sharpness" else 1.6}
            curve(ax, data[data["median"] > 0], look, label=_NAMES[column])
            ratios[column] = _late_ratio(steps, column)
        rates = steps.groupby("step")["lr"].median()
        rates = rates[rates > 0]
        ax.plot(rates.index, 2 / rates, color=GREY, linestyle=(0, (4, 2)), linewidth=1.2)
        log_axis(ax, "y")
        step_axis(ax)
        known = [f"{number(ratio)} ({_NAMES[c]})" for c, ratio in ratios.items() if ratio is not None]
        if known:
            parts.append((panel.title, f"{', '.join(known)} at η = {number(rate)}"))
        rows.append(
            {"panel": panel.title or "all", "learning rate η": rate}
            | {f"{_NAMES[column]} · η/2, late median": ratio for column, ratio in ratios.items()}
        )
    panels.label(axes, "step", "curvature")
    edge = Line2D([], [], color=GREY, linestyle=(0, (4, 2)), linewidth=1.2, label="2/η")
    key_of_lines(picture, axes, order=[_NAMES[column] for column in columns], extra=[edge])
    said = sentence_of(parts, opening="In the last half of training, times η/2 and in the median, they are ")
    caption = (
        "Largest eigenvalues λ of the Hessian H, its Gauss–Newton part G and H − G on a fixed probe, and "
        "batch sharpness, the mean over fresh minibatches of gᵀHg/‖g‖² along their gradients g, as far as "
        f"measured, at the best learning rate; {spread(view.seeds)}. The dashed line is 2/η, the edge of "
        "plain SGD."
    )
    notes = (*panels.notes, *left_out, *seed_note(seeds))
    said = said_of_late(said or "The table has each panel.", runs)
    return Drawn("curvatures", _TITLE, said, caption, notes, pd.DataFrame(rows), picture)


def _late_ratio(steps: pd.DataFrame, column: str) -> float | None:
    """The median of η times the column over 2 in the last half of training."""
    values = late(steps.assign(ratio=steps["lr"] * steps[column] / 2), "ratio")
    return float(pd.Series(values).median()) if len(values) else None


CURVATURES = Recipe("curvatures", _TITLE, lacks, draw)
