"""Figures of a study, one file each: what is asked, what is seen, and the numbers behind it.

None of them touches ``pyplot``: drawing leaves no state behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.figure import Figure

from scaled_sgd.study.figures import (
    against_width,
    best_lr,
    kernel_drift,
    largest_stable_lr,
    layers,
    loss_against_lr,
    methods,
    sharpness,
    taylor,
)
from scaled_sgd.study.figures.drawn import Drawn, Recipe
from scaled_sgd.study.figures.style import STYLE
from scaled_sgd.study.figures.view import View
from scaled_sgd.study.grid.figure_names import FIGURES, check_names
from scaled_sgd.study.tables.collect import Collected

__all__ = ["RECIPES", "Drawings", "Drawn", "Recipe", "View", "draw_figures"]

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        loss_against_lr.RECIPE,
        best_lr.AGAINST_WIDTH,
        best_lr.AGAINST_DEPTH,
        largest_stable_lr.RECIPE,
        methods.RECIPE,
        sharpness.PRECONDITIONED,
        sharpness.RAW,
        layers.FEATURE_RECIPE,
        layers.SOFT_RECIPE,
        taylor.RECIPE,
        against_width.RECIPE,
        kernel_drift.RECIPE,
    )
}
"""Every figure by its name, in the order of a report."""


@dataclass(frozen=True)
class Drawings:
    """The figures of a study.

    Attributes:
        figures: those that its data has columns for.
        lacking: title of every other one, and what the study would need for it.
    """

    figures: tuple[Drawn, ...]
    lacking: tuple[tuple[str, str], ...]


def draw_figures(collected: Collected, names: Sequence[str] | None = None) -> Drawings:
    """The named figures of a study, in that order; all that its data allows without names.

    Raises:
        UserError: a name that is no figure's.
    """
    names = FIGURES if names is None else names
    check_names(names)
    view = View.of(collected)
    figures: list[Drawn] = []
    lacking: list[tuple[str, str]] = []
    with rc_context(STYLE):
        for recipe in (RECIPES[name] for name in names):
            reason = recipe.lacks(view)
            if reason:
                lacking.append((recipe.title, reason))
            else:
                drawn = recipe.draw(view)
                _settle(drawn.picture)
                figures.append(drawn)
    return Drawings(tuple(figures), tuple(lacking))


def _settle(picture: Figure) -> None:
    """Lay a figure out once, so that all its files are alike."""
    layout = picture.get_layout_engine()
    if layout is not None:
        layout.execute(picture)
        picture.set_layout_engine("none")
