"""The best learning rate against width and against depth; the largest stable one against either."""

import math
from collections.abc import Sequence
from functools import partial

from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.rate_curves import Curves, along
from scaled_sgd.study.figures.reading.over_steps import said_of_late
from scaled_sgd.study.figures.reading.rates import best, end_notes, grid_step, largest_stable, seed_note
from scaled_sgd.study.figures.reading.view import DEPTH, FINAL, RATE, WIDTH, View
from scaled_sgd.study.figures.reading.words import span

_TWO_RATES = "runs at two learning rates or more"
_STABLE_TITLE = "How large may the learning rate be?"


def lacks_best(view: View, axis: str) -> str:
    """A study needs several rates and several values of the axis."""
    if not view.several(axis):
        return f"runs at two {along(axis)}s or more"
    if view.runs[RATE].nunique() < 2:
        return _TWO_RATES
    return "" if (view.runs[FINAL] < math.inf).any() else "a run that has not diverged"


def draw_best(view: View, axis: str) -> Drawn:
    """The rate with the lowest median final loss."""
    curves = Curves.of(view, axis, best)
    unstable = sum(choice.found and not choice.runs["stable"].all() for _, choice in curves.choices)
    note = f"At {unstable} of {len(curves.choices)} points the best rate is not a stable one."
    what = "The best learning rate"
    return Drawn(
        f"best_lr_against_{along(axis)}",
        _best_title(axis),
        curves.sentence(what),
        f"The learning rate with the lowest {_median(view)}{grid_step(view.runs)}, against {along(axis)}"
        + ("; bars span the rates that single seeds would choose." if view.seeds > 1 else "."),
        _notes(curves, end_notes(curves.choices, what), [note] if unstable else []),
        curves.table(),
        curves.draw(view, "best learning rate η"),
    )


def lacks_stable(view: View) -> str:
    """A study needs several rates, and several widths or depths."""
    if view.runs[RATE].nunique() < 2:
        return _TWO_RATES
    return "" if _along(view) else "runs of two networks or methods or more"


def _along(view: View) -> str | None:
    return next((axis for axis in (WIDTH, DEPTH, *view.varied) if view.several(axis)), None)


def draw_stable(view: View) -> Drawn:
    """The largest rate at which, as at all lower rates, no seed's loss exceeds twice its initial value.

    Against width, else depth, else the first other axis, such as the steps of a warm-up.
    """
    axis = _along(view)
    assert axis is not None
    curves = Curves.of(view, axis, largest_stable)
    ratios = [choice.median("late_edge_ratio") for _, choice in curves.choices if choice.found]
    known = [ratio for ratio in ratios if ratio == ratio]
    edge = f" At that rate the edge ratio is {span(known)} in the last half of a run." if known else ""
    what = "The largest stable learning rate"
    ends = [note for note in end_notes(curves.choices, what) if "is the lowest" not in note]
    return Drawn(
        "largest_stable_lr",
        _STABLE_TITLE,
        curves.sentence(what) + said_of_late(edge, view.runs),
        "The largest learning rate that, like all lower ones of the grid, keeps the largest minibatch loss "
        f"{'of every seed ' if view.seeds > 1 else ''}below twice the first{grid_step(view.runs)}"
        f"{'; bars span the rates of single seeds' if view.seeds > 1 else ''}. "
        "The edge ratio is η λ / 2 with λ the preconditioned sharpness: 1 at the classical edge of "
        "stability.",
        _notes(curves, ends),
        curves.table(),
        curves.draw(view, "largest stable rate η"),
    )


def _median(view: View) -> str:
    return f"median of the {view.objective} over seeds" if view.seeds > 1 else view.objective


def _notes(curves: Curves, *more: Sequence[str]) -> tuple[str, ...]:
    seeds = seed_note([choice.seeds for _, choice in curves.choices if choice.found])
    return (*curves.panels.notes, *(note for notes in more for note in notes), *seeds)


def _best_title(axis: str) -> str:
    return f"Which learning rate is best at which {along(axis)}?"


BEST_AGAINST_WIDTH, BEST_AGAINST_DEPTH = (
    Recipe(
        f"best_lr_against_{along(axis)}",
        _best_title(axis),
        partial(lacks_best, axis=axis),
        partial(draw_best, axis=axis),
    )
    for axis in (WIDTH, DEPTH)
)
LARGEST_STABLE = Recipe("largest_stable_lr", _STABLE_TITLE, lacks_stable, draw_stable)
