"""The registry of figures; their names are known without importing a plotting library."""

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.registry import Registry

FIGURES: Registry[str] = Registry("report")
"""Every figure's recipe as ``module:name``, in the order of the report."""

for _name, _recipe in (
    ("loss_against_lr", "loss_against_lr:LOSS_AGAINST_LR"),
    ("best_lr_against_width", "chosen_lr:BEST_AGAINST_WIDTH"),
    ("best_lr_against_depth", "chosen_lr:BEST_AGAINST_DEPTH"),
    ("largest_stable_lr", "chosen_lr:LARGEST_STABLE"),
    ("methods", "methods:METHODS"),
    ("preconditioned_sharpness", "sharpness:PRECONDITIONED"),
    ("sharpness", "sharpness:RAW"),
    ("feature_ranks", "against_step:FEATURES"),
    ("soft_ranks", "against_step:GRADIENTS"),
    ("taylor", "taylor:TAYLOR"),
    ("coordinate_check", "against_width:COORDINATE_CHECK"),
    ("kernel_drift", "against_width:KERNEL_DRIFT"),
):
    FIGURES.add(_name, f"scaled_sgd.study.figures.{_recipe}")


def check_figures(names: object) -> None:
    """Refuse anything but a list of figures; None stands for all.

    Raises:
        UserError: it is something else, or contains an unknown figure.
    """
    if names is None:
        return
    if not isinstance(names, list | tuple):
        raise UserError(f"report: {names!r} is no list; allowed: a list of {', '.join(FIGURES)}")
    for name in names:
        FIGURES[str(name)]
