"""The figures of a report by name; they are known without importing a plotting library."""

from collections.abc import Sequence

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.registry import Registry
from scaled_sgd.diagnostics.registry import QUANTITIES, Column
from scaled_sgd.study.claims.plot import read_plot

FIGURES: Registry[str] = Registry("report")
"""Recipes, as ``module:name``, of figures of the runs' results or of several columns."""

for _name, _recipe in (
    ("loss_against_lr", "loss_against_lr:LOSS_AGAINST_LR"),
    ("loss_against_step", "loss_against_step:LOSS_AGAINST_STEP"),
    ("best_lr_against_width", "chosen_lr:BEST_AGAINST_WIDTH"),
    ("best_lr_against_depth", "chosen_lr:BEST_AGAINST_DEPTH"),
    ("largest_stable_lr", "chosen_lr:LARGEST_STABLE"),
    ("methods", "methods:METHODS"),
    ("preconditioned_sharpness", "sharpness:PRECONDITIONED"),
    ("sharpness", "sharpness:RAW"),
    ("curvatures", "curvatures:CURVATURES"),
    ("batch_spectrum", "batch_spectrum:BATCH_SPECTRUM"),
    ("taylor", "taylor:TAYLOR"),
    ("edge_ratios", "together:EDGE_RATIOS"),
    ("sharpness_change", "together:SHARPNESS_CHANGE"),
    ("cycle", "cycle:CYCLE"),
    ("refined_coordinate_check", "refined_check:REFINED_CHECK"),
):
    FIGURES.add(_name, f"scaled_sgd.study.figures.{_recipe}")


def all_figures() -> dict[str, str | Column]:
    """:data:`FIGURES`, then the columns of diagnostics that have a figure, by its name; in report order.

    Raises:
        UserError: two figures have one name.
    """
    found: dict[str, str | Column] = {name: FIGURES[name] for name in FIGURES}
    for column in (column for quantity in QUANTITIES.entries for column in quantity.columns):
        figure = column.drawn
        if figure is None:
            continue
        if figure.name in found:
            raise UserError(f"report: two figures are called {figure.name!r}; allowed: one")
        found[figure.name] = column
    return found


def check_figures(names: object, axes: Sequence[str] | None = None) -> None:
    """Refuse anything but a list of figures, by name or :class:`Plot`; None stands for all.

    Raises:
        UserError: it is something else, or contains an unknown figure.
    """
    if names is None:
        return
    known = all_figures()
    if not isinstance(names, list | tuple):
        raise UserError(f"report: {names!r} is no list; allowed: a list of {', '.join(known)}")
    taken = set(known)
    for name in names:
        if isinstance(name, dict):
            own = read_plot(name, axes).name
            if own in taken:
                raise UserError(f"report: two figures are called {own!r}; allowed: one")
            taken.add(own)
        elif not isinstance(name, str) or name not in known:
            raise UserError(f"report: {name!r} is unknown; allowed: {', '.join(known)}")
