"""Applies a direction: v_k ← μ v_k + c U_k + λ W_k, then W_k ← W_k − η v_k (theory §3, §3b)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from scaled_sgd.core.products import add_product_

Number = float | Tensor
"""A number for one network, also as a tensor (), or numbers (B, 1, 1) for the networks of a stack."""


class Decay(Protocol):
    """Decay of the products of factors, such as :class:`~scaled_sgd.steps.frobenius.FrobeniusDecay`."""

    @property
    def number(self) -> Number: ...  # noqa: D102
    def pull(self, k: int) -> Tensor | None: ...  # noqa: D102


class AddTo(Protocol):
    """Target ← keep · target + factor · c U_k, in place."""

    def __call__(self, target: Tensor, *, keep: Number, factor: Number) -> object: ...  # noqa: D102


@dataclass(frozen=True)
class Update:
    """The parameters of an update; for a stack of B networks all but ``velocity`` may be tensors, η always.

    Attributes:
        lr: η; () as a tensor, (B, 1, 1) for a stack.
        weight_decay: λ, not scaled by the direction; likewise.
        frobenius: decay of products of factors, not scaled either; acts on other layers as weight decay.
        momentum: μ; likewise.
        velocity: gives this process's rows of v_k; needed if μ > 0.
        clip_norm: largest norm of the gradient; (B,) for a stack, inf for no clipping.
        normalize: divide by the norm of the gradient; (B,) for a stack.
        clipped: (…, l), the layers whose gradient these two look at and act on; None: all.
    """

    lr: Number
    weight_decay: Number = 0.0
    momentum: Number = 0.0
    velocity: Callable[[int], Tensor] | None = None
    clip_norm: Number | None = None
    normalize: bool | Tensor = False
    clipped: Tensor | None = None
    frobenius: Decay | None = None

    @property
    def needs_norm(self) -> bool:
        """Whether every update needs the norm of the whole gradient; δ_1..δ_l are then held at once."""
        return self.clip_norm is not None or self.normalize is not False

    @cached_property
    def _down(self) -> Number:
        """−η."""
        return -self.lr

    def factors(self, squares: Tensor) -> Tensor:
        """c_k (…, l), or (…, 1) if it is one for all layers, from ‖G_k‖_F² (…, l)."""
        return gradient_factors(
            squares, clip_norm=self.clip_norm, normalize=self.normalize, clipped=self.clipped
        )

    def apply(self, k: int, W: Tensor, add: AddTo) -> None:
        """Update this process's rows of W_k by the direction that ``add`` adds; ``k`` selects v_k."""
        decay: Number = self.weight_decay
        pull: Tensor | None = None
        pulled: Number = 0.0
        if self.frobenius is not None:
            pull, pulled = self.frobenius.pull(k), self.frobenius.number
            decay = decay + pulled if pull is None else decay
        if _is_zero(self.momentum):
            keep = 1.0 if _is_zero(decay) else 1 - self.lr * decay
            add(W, keep=keep, factor=self._down)
            if pull is not None:
                add_scaled(W, pull, self._down * pulled)
            return
        assert self.velocity is not None
        v = self.velocity(k)
        add(v, keep=self.momentum, factor=1.0)
        if not _is_zero(decay):
            add_scaled(v, W, decay)
        if pull is not None:
            add_scaled(v, pull, pulled)
        add_scaled(W, v, self._down)


def gradient_factors(
    squares: Tensor, *, clip_norm: Number | None, normalize: bool | Tensor, clipped: Tensor | None = None
) -> Tensor:
    """The factor on each layer's direction: c on those that are ``clipped``, from their norm, else 1.

    Args:
        squares: ‖G_k‖_F² (…, l).
        clip_norm: see :class:`Update`.
        normalize: likewise.
        clipped: likewise.

    Returns:
        (…, l), or (…, 1) if all layers are clipped.
    """
    if clipped is None:
        return _factor(squares.sum(-1).sqrt(), clip_norm, normalize)[..., None]
    norm = (squares * clipped).sum(-1).sqrt()
    return torch.where(clipped, _factor(norm, clip_norm, normalize)[..., None], 1.0)


def _factor(norm: Tensor, clip_norm: Number | None, normalize: bool | Tensor) -> Tensor:
    """1/‖G‖ for normalised SGD, else min(1, clip_norm / (‖G‖ + 1e-6)); 1 without clipping; shape of norm."""
    normalized = 1 / norm.clamp(min=1e-30)
    if normalize is True:
        return normalized
    clipped = torch.ones_like(norm) if clip_norm is None else (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    return clipped if normalize is False else torch.where(normalize, normalized, clipped)


def add_scaled(target: Tensor, t: Tensor, number: Number) -> None:
    """Target += number · t in one pass, without waiting for the device."""
    if isinstance(number, Tensor):
        target.addcmul_(t, number.to(t.dtype))
    else:
        target.add_(t, alpha=number)


def keep_scaled(target: Tensor, keep: Number) -> Tensor:
    """Target ← keep · target, in place; returns it."""
    if isinstance(keep, Tensor):
        return target.mul_(keep.to(target.dtype))
    return target if keep == 1 else target.mul_(keep)


def add_product(target: Tensor, left: Tensor, right: Tensor, *, keep: Number, factor: Number) -> None:
    """Target ← keep · target + factor · leftᵀ right, in place, as one accumulating product.

    Args:
        target: (…, m_out, m_in).
        left: (…, n, m_out).
        right: (…, n, m_in).
        keep: one number per network.
        factor: one number per network; multiplies the one with fewer columns if it is a tensor.
    """
    if isinstance(factor, Tensor):
        # One more dimension than () keeps the factor's own precision where ``left`` is narrower.
        own = factor.to(target.dtype).reshape(factor.shape or (1,) * left.ndim)
        if left.shape[-1] <= right.shape[-1]:
            left = torch.mul(left, own, out=torch.empty_like(left))
        else:
            right = torch.mul(right, own, out=torch.empty_like(right))
        factor = 1.0
    if isinstance(keep, Tensor):
        target, keep = keep_scaled(target, keep), 1.0
    add_product_(target, left.transpose(-2, -1), right, beta=keep, alpha=factor)


def _is_zero(number: Number) -> bool:
    return not isinstance(number, Tensor) and number == 0
