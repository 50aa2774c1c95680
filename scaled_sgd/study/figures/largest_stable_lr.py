"""The largest stable learning rate against width, or against depth where there is one width."""

from scaled_sgd.study.figures.drawn import Drawn, Recipe
from scaled_sgd.study.figures.rate_curves import Curves, final_columns
from scaled_sgd.study.figures.rates import end_notes, grid_step, largest_stable, seed_note
from scaled_sgd.study.figures.view import DEPTH, RATE, WIDTH, View
from scaled_sgd.study.figures.words import span

_TITLE = "How large may the learning rate be?"


def lacks(view: View) -> str:
    """A study needs several rates, and several widths or depths."""
    if view.runs[RATE].nunique() < 2:
        return "runs at two learning rates or more"
    return "" if _axis(view) else "runs at two widths or depths or more"


def draw(view: View) -> Drawn:
    """The largest rate at which no seed's loss exceeds twice its start, as at all lower rates."""
    axis = _axis(view)
    assert axis is not None
    curves = Curves.of(view, axis, largest_stable)
    ratios = [choice.median("late_edge_ratio") for _, choice in curves.choices if choice.found]
    known = [ratio for ratio in ratios if ratio == ratio]
    edge = f" At that rate the edge ratio is {span(known)} in the last half of a run." if known else ""
    notes = [
        *([curves.panels.left_out] if curves.panels.left_out else []),
        *[
            note
            for note in end_notes(curves.choices, "The largest stable learning rate")
            if "is the lowest" not in note
        ],
        *seed_note([choice.seeds for _, choice in curves.choices if choice.found]),
    ]
    caption = (
        "The largest learning rate that, like all lower ones of the grid, keeps the largest minibatch loss "
        f"of every seed below twice the first{grid_step(view.runs)}; bars span the rates of single seeds. "
        "The edge ratio is η λ / 2 with λ the preconditioned sharpness: 1 at the classical edge of stability."
    )
    return Drawn(
        "largest_stable_lr",
        _TITLE,
        curves.sentence("The largest stable learning rate") + edge,
        caption,
        tuple(notes),
        curves.table(final_columns()),
        curves.draw(view, "largest stable rate η"),
    )


def _axis(view: View) -> str | None:
    return next(
        (axis for axis in (WIDTH, DEPTH) if axis in view.varied and view.runs[axis].nunique() > 1), None
    )


RECIPE = Recipe("largest_stable_lr", _TITLE, lacks, draw)
