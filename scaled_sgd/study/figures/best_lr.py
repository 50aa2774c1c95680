"""The best learning rate against width, and against depth."""

import math
from functools import partial

from scaled_sgd.study.figures.drawn import Drawn, Recipe
from scaled_sgd.study.figures.rate_curves import Curves, final_columns
from scaled_sgd.study.figures.rates import best, end_notes, grid_step, seed_note
from scaled_sgd.study.figures.view import DEPTH, FINAL, RATE, WIDTH, View

_WORDS = {WIDTH: "width", DEPTH: "depth"}


def lacks(view: View, axis: str) -> str:
    """A study needs several rates and several values of the axis."""
    if axis not in view.varied or view.runs[axis].nunique() < 2:
        return f"runs at two {_WORDS[axis]}s or more"
    if view.runs[RATE].nunique() < 2:
        return "runs at two learning rates or more"
    return "" if (view.runs[FINAL] < math.inf).any() else "a run that has not diverged"


def draw(view: View, axis: str) -> Drawn:
    """The rate of the lowest median final loss."""
    curves = Curves.of(view, axis, best)
    unstable = sum(choice.found and not choice.runs["stable"].all() for _, choice in curves.choices)
    notes = [
        *([curves.panels.left_out] if curves.panels.left_out else []),
        *end_notes(curves.choices, "The best learning rate"),
        *(
            [f"At {unstable} of {len(curves.choices)} points the best rate is not a stable one."]
            if unstable
            else []
        ),
        *seed_note([choice.seeds for _, choice in curves.choices if choice.found]),
    ]
    caption = (
        f"The learning rate with the lowest median of the {view.objective} over seeds{grid_step(view.runs)}, "
        f"against {_WORDS[axis]}; bars span the rates that single seeds would choose."
    )
    return Drawn(
        f"best_lr_against_{_WORDS[axis]}",
        _title(axis),
        curves.sentence("The best learning rate"),
        caption,
        tuple(notes),
        curves.table(final_columns()),
        curves.draw(view, "best learning rate η"),
    )


def _title(axis: str) -> str:
    return f"Which learning rate is best at which {_WORDS[axis]}?"


AGAINST_WIDTH, AGAINST_DEPTH = (
    Recipe(
        f"best_lr_against_{_WORDS[axis]}", _title(axis), partial(lacks, axis=axis), partial(draw, axis=axis)
    )
    for axis in (WIDTH, DEPTH)
)
