"""λ and the swing of a cycle at the edge of stability, measured and predicted from its first values."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from scaled_sgd.study.claims.cycles import Cycle, first_cycle
from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import GREY, category, log_axis, set_mathtext, step_axis
from scaled_sgd.study.figures.reading.view import View
from scaled_sgd.study.figures.reading.words import number, sentence_of

_TITLE = "Does a cubic model predict the cycle of sharpness and oscillation?"
_DASHES = (0, (4, 2))
_LOOKS: tuple[dict[str, Any], ...] = (
    {"label": "measured"},
    {"label": "predicted", "linestyle": (0, (1.5, 1.5))},
)
_CAPTION = (
    "Below, the largest eigenvalue λ of the Hessian on a probe, averaged as (λ_{t−1} + 2λ_t + λ_{t+1})/4, "
    "from the step where it passes the dashed 2/η until it does so again; above, the swing |⟨u, ∇L⟩|/λ along "
    "its eigenvector u; dotted, x ← −(1 + ηy) x, y ← y + η(α − βx²/2) from the first values of both, with α "
    "and β of that step, while the predicted swing is below three times the largest measured one."
)


def _cycles(view: View) -> dict[str, Cycle]:
    found = {str(name): first_cycle(rows) for name, rows in view.metrics.groupby("id")}
    return {name: one for name, one in found.items() if one is not None}


def lacks(view: View) -> str:
    """A study needs a run whose λ passes 2/η, measured at every step."""
    return (
        "" if _cycles(view) else "third_order at every step of a run of plain SGD that passes 2/η where α > 0"
    )


def draw(view: View) -> Drawn:
    """A panel for each run with a cycle."""
    cycles = _cycles(view)
    runs = view.runs[view.runs["id"].isin(cycles)]
    axes = [axis for axis in view.varied if runs[axis].nunique() > 1]
    panels = Panels.of(runs, axes)
    picture, below, above = panels.figure_of_two()
    parts, rows = [], []
    for lower, upper, panel in zip(below, above, panels.shown, strict=True):
        one = cycles[str(panel.runs["id"].iloc[0])]
        shown = one.predicted[np.cumprod(one.predicted[:, 1] < 3 * one.swing.max()).astype(bool)]
        for values, ax in (((one.sharpness, shown[:, 0]), lower), ((one.swing, shown[:, 1]), upper)):
            for place, (line, look) in enumerate(zip(values, _LOOKS, strict=True)):
                color = category(place)["color"]
                ax.plot(one.first + np.arange(len(line)), line, color=color, **look)
        lower.axhline(one.edge, color=GREY, linestyle=_DASHES, linewidth=1.2)
        log_axis(upper, "y")
        step_axis(lower)
        highest, steps = one.sharpness.max(), int(one.sharpness.argmax())
        expected, sooner = one.predicted[:, 0].max(), int(one.predicted[:, 0].argmax())
        rows.append(
            {
                "panel": panel.title or "all",
                "2/η": one.edge,
                "largest λ": highest,
                "predicted": expected,
                "steps to it": steps,
                "predicted steps": sooner,
            }
        )
        said = (
            f"sharpness rises to {number(highest)} in {steps} steps, predicted {number(expected)} in {sooner}"
        )
        parts.append((panel.title, f"{said}, from 2/η = {number(one.edge)}"))
    panels.label(below, "step", "sharpness λ")
    for ax in above[:: panels.columns]:
        set_mathtext(ax.yaxis.label, "swing |x|")
    edge = Line2D([], [], color=GREY, linestyle=_DASHES, linewidth=1.2, label="2/η")
    key_of_lines(picture, below, extra=[edge])
    sentence = sentence_of(parts) or "The table has each run."
    return Drawn("cycle", _TITLE, sentence, _CAPTION, panels.notes, pd.DataFrame(rows), picture)


CYCLE = Recipe("cycle", _TITLE, lacks, draw)
