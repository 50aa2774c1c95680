"""Scaling rules: ξ as pure functions of mean squares of signals over the global minibatch (theory §3)."""

from typing import Protocol

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError

FLOOR = 1e-30
"""Where the denominator of a rule's fraction is at most this, ξ_k = 0: such a layer has no gradient.

Norms of float32 and narrower signals are taken in float32, where entries below 1e-19 square to zero."""


class Rule(Protocol):
    """ξ (l,) from F (l,), D (l,), R (), ω (l,), all float64, and the depth l."""

    def __call__(self, F: Tensor, D: Tensor, R: Tensor, omega: Tensor, depth: int) -> Tensor: ...  # noqa: D102


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    safe = denominator > FLOOR
    return torch.where(safe, numerator, 0.0) / torch.where(safe, denominator, 1.0)


def none(F: Tensor, D: Tensor, R: Tensor, omega: Tensor, depth: int) -> Tensor:
    """1: plain SGD."""
    return torch.ones_like(omega)


def norm(F: Tensor, D: Tensor, R: Tensor, omega: Tensor, depth: int) -> Tensor:
    """ω / (l √(F D)): cancels forward and backward norms, so that ‖ξ_k G_k‖_F ≤ ω_k / l."""
    return _ratio(omega, depth * (F * D).sqrt())


def gain(F: Tensor, D: Tensor, R: Tensor, omega: Tensor, depth: int) -> Tensor:
    """ω / (l √(F B)), B = D / R: as ``norm``, but the step keeps the residual's scale."""
    return _ratio(omega * R.sqrt(), depth * (F * D).sqrt())


def kernel(F: Tensor, D: Tensor, R: Tensor, omega: Tensor, depth: int) -> Tensor:
    """ω / (l F B): layer kernels of unit trace, steps in function space."""
    return _ratio(omega, depth * F * _ratio(D, R))


RULES: dict[str, Rule] = {"none": none, "norm": norm, "gain": gain, "kernel": kernel}


def get_rule(name: str) -> Rule:
    """The rule called ``name``.

    Raises:
        UserError: there is no such rule.
    """
    if not isinstance(name, str) or name not in RULES:
        raise UserError(f"rule: {name!r} is unknown; allowed: {', '.join(RULES)}")
    return RULES[name]
