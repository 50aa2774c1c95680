"""What the figures of a report are called; to know it needs no library that draws."""

from collections.abc import Sequence

from scaled_sgd.core.errors import UserError

FIGURES = (
    "loss_against_lr", "best_lr_against_width", "best_lr_against_depth", "largest_stable_lr", "methods",
    "preconditioned_sharpness", "sharpness", "feature_ranks", "soft_ranks", "taylor", "coordinate_check",
    "kernel_drift",
)  # fmt: skip
"""In the order of a report."""


def check_names(names: Sequence[str]) -> None:
    """Refuse what is no figure.

    Raises:
        UserError: a name that is no figure's.
    """
    for name in names:
        if name not in FIGURES:
            raise UserError(f"report: {name!r} is no figure; allowed: {', '.join(FIGURES)}")
