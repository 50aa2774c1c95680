"""Figures of a study, one file each: the question, the answer, and the numbers behind it.

None of them uses ``pyplot``: drawing leaves no global state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib import rc_context

from scaled_sgd.core.registry import load
from scaled_sgd.diagnostics.columns import Column
from scaled_sgd.study.claims.plot import read_plot
from scaled_sgd.study.figures.columns import column_recipe
from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.style import STYLE
from scaled_sgd.study.figures.plots import plot_recipe
from scaled_sgd.study.figures.reading.view import View
from scaled_sgd.study.grid.figures import all_figures, check_figures
from scaled_sgd.study.tables.collect import Collected

__all__ = ["Drawings", "Drawn", "Recipe", "View", "draw_figures"]

_UNIT = "Rates η are in units of 2/λ₀, λ₀ the preconditioned sharpness of each run at its start."


@dataclass(frozen=True)
class Drawings:
    """The figures of a study.

    Attributes:
        figures: the figures that the study has data for.
        lacking: title of every other figure, and what the study would need for it.
    """

    figures: tuple[Drawn, ...]
    lacking: tuple[tuple[str, str], ...]


def draw_figures(collected: Collected, names: Sequence[str | Mapping[str, Any]] | None = None) -> Drawings:
    """The named figures of a study, and plots as in ``report`` of a study file, in this order; without names,
    all that its data allow.

    Raises:
        UserError: an unknown figure.
    """
    check_figures(names)
    known = all_figures()
    recipes = [
        _recipe(known[name]) if isinstance(name, str) else plot_recipe(read_plot(name, None))
        for name in (known if names is None else names)
    ]
    view = View.of(collected)
    figures: list[Drawn] = []
    lacking: list[tuple[str, str]] = []
    with rc_context(STYLE):
        for recipe in recipes:
            reason = recipe.lacks(view)
            if reason:
                lacking.append((recipe.title, reason))
            else:
                drawn = recipe.draw(view)
                notes = (*drawn.notes, _UNIT) if view.in_edges else drawn.notes
                figures.append(replace(drawn, notes=notes).settled())
    return Drawings(tuple(figures), tuple(lacking))


def _recipe(entry: str | Column) -> Recipe:
    recipe: Recipe = column_recipe(entry) if isinstance(entry, Column) else load(entry)
    return recipe
