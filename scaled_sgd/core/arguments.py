"""Checks tensor arguments of public functions; each refuses in one line."""

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_samples(x: object, features: int, device: torch.device) -> None:
    """Refuse anything but a tensor (n, ``features``) of real numbers on ``device``.

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
    """Refuse a tensor on another device than the model."""
    if t.device != device:
        raise UserError(f"{name}: it is on {t.device}; allowed: {device}, where the model is")
