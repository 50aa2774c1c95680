"""Checks of what public functions are given; each refuses in one line."""

import math
from numbers import Real

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_integer(name: str, value: object, *, least: int = 1, most: int | None = None) -> None:
    """Refuse all but integers from ``least`` to ``most``."""
    fits = isinstance(value, int) and not isinstance(value, bool)
    if not (fits and least <= value and (most is None or value <= most)):  # type: ignore[operator]
        upto = "" if most is None else f" to {most}"
        raise UserError(f"{name}: {value!r} is not usable; allowed: integers from {least}{upto}")


def check_number(name: str, value: object, *, below: float = math.inf) -> None:
    """Refuse all but finite numbers from 0, less than ``below``."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < below:
        allowed = "finite numbers from 0" if below == math.inf else f"numbers from 0 to below {below:g}"
        raise UserError(f"{name}: {value!r} is not usable; allowed: {allowed}")


def check_samples(x: object, features: int, device: torch.device) -> None:
    """Refuse all but a tensor (n, ``features``) of real numbers on ``device``.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(x, Tensor):
        raise UserError(f"x: {type(x).__name__} does not fit; allowed: a tensor (n, {features})")
    if x.ndim != 2 or x.shape[1] != features:
        raise UserError(f"x: shape {tuple(x.shape)} does not fit; allowed: (n, {features})")
    if not x.is_floating_point():
        raise UserError(f"x: {x.dtype} does not fit; allowed: floating point numbers")
    check_device("x", x, device)


def check_device(name: str, t: Tensor, device: torch.device) -> None:
    """Refuse a tensor that is not where the model is."""
    if t.device != device:
        raise UserError(f"{name}: it is on {t.device}; allowed: {device}, where the model is")
