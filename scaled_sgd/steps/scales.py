"""Resolves the scales ξ_k of a diagnostic (theory §3)."""

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.rules import RULES


def resolve_scales(scales: str | Tensor | None, batch: Minibatch) -> Tensor:
    """ξ (l,): ones for None, the rule's for its name, or the given tensor.

    Raises:
        UserError: an unknown rule, a rule with matrices, or a tensor of wrong shape or with negative entries.
    """
    partition = batch.partition
    if isinstance(scales, str):
        if not RULES[scales].scalar:
            raise UserError(f"scales: {scales!r} has no number a layer; allowed: a rule that has")
        return RULES[scales](batch.statistics).numbers.to(partition.dtype)
    return given_scales(scales, partition.depth, dtype=partition.dtype, device=partition.device)


def given_scales(scales: Tensor | None, count: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Ones for None, else the tensor itself, shape (count,).

    Raises:
        UserError: another shape, or numbers that are negative or not finite.
    """
    if scales is None:
        return torch.ones(count, dtype=dtype, device=device)
    if not isinstance(scales, Tensor) or scales.shape != (count,):
        shape = tuple(getattr(scales, "shape", ())) or scales
        raise UserError(f"scales: {shape!r} does not fit; allowed: None, a rule's name or shape ({count},)")
    if scales.is_complex() or not bool(((scales >= 0) & scales.isfinite()).all()):
        raise UserError(f"scales: {scales.tolist()} are not usable; allowed: finite numbers from 0")
    return scales.detach().to(device, dtype)
