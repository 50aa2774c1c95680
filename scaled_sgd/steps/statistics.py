"""F, D and R of a minibatch's signals; ‖G_k‖_F² and soft ranks on demand (theory §2, §3).

Every formula works for one network and for a stack: leading dimensions (…) are those of the stack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_DOTTED = (torch.float32, torch.float64)
"""Dtypes that are squared and summed without conversion."""

_SAFE = (1e-20, 3e38)
"""Sums of float32 squares in this range have lost nothing to underflow or overflow."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of some layers over the global minibatch that a direction may depend on.

    Attributes:
        layers: indices among 0..l−1.
        depth: l.
        F: (α_k²/n) Σ‖h_{k−1}‖², shape (…, layers), float64.
        D: (1/n) Σ‖δ_k‖², likewise.
        R: (1/n) Σ‖r‖², shape (…).
        omega: ω_k, shape (…, layers).
        squares: measures ‖G_k‖_F² (…, layers). Collective if weights are sharded.
        grams: for the i-th layer A = δ_k δ_kᵀ and B = h_{k−1} h_{k−1}ᵀ, each (…, n, n) over the full
            minibatch. Collective if weights are sharded; None if factors are not available.
    """

    layers: slice
    depth: int
    F: Tensor
    D: Tensor
    R: Tensor
    omega: Tensor
    squares: Callable[[], Tensor] | None = None
    grams: Callable[[int], tuple[Tensor, Tensor]] | None = None

    @cached_property
    def gradient_squares(self) -> Tensor:
        """‖G_k‖_F², shape (…, layers), float64."""
        assert self.squares is not None
        return self.squares()

    @property
    def soft_ranks(self) -> Tensor:
        """S_k = F_k D_k / ‖G_k‖_F², shape (…, layers): 1 if all samples' gradients align (ours)."""
        return self.F * self.D / self.gradient_squares


def square_norm(signal: Tensor) -> Tensor:
    """‖signal‖² () as float64, for finite signals of any magnitude.

    On a CPU summed in the signal's own precision where its squares keep to the range of float32.
    """
    if signal.dtype == torch.float64 or _reads_are_free(signal):
        if signal.dtype in _DOTTED and signal.is_contiguous():
            square = torch.dot(signal.view(-1), signal.view(-1)).double()
        else:
            square = _norm(signal, torch.promote_types(signal.dtype, torch.float32)).double().square()
        if signal.dtype == torch.float64 or _SAFE[0] < float(square) < _SAFE[1]:
            return square
    return _norm(signal, torch.float64).square()


def square_norms(signals: Sequence[Tensor]) -> Tensor:
    """‖·‖² of each of signals (…, n, m), shape (…, len(signals)), float64."""
    wide = all(signal.dtype == torch.float64 for signal in signals)
    if signals[0].ndim == 2 and not all(s.is_contiguous() and s.dtype in _DOTTED for s in signals):
        return torch.stack([square_norm(signal) for signal in signals])
    if wide or _reads_are_free(signals[0]):
        if signals[0].ndim == 2:
            flat = [signal.view(-1) for signal in signals]
            squares = torch.stack([torch.dot(row, row) for row in flat]).double()
        else:
            norms = [torch.linalg.vector_norm(t, dim=(-2, -1)) for t in signals]
            squares = torch.stack(norms, -1).double().square()
        if wide or (squares.min() > _SAFE[0] and squares.max() < _SAFE[1]):
            return squares
    norms = [torch.linalg.vector_norm(t, dim=(-2, -1), dtype=torch.float64) for t in signals]
    return torch.stack(norms, -1).square()


def _reads_are_free(signal: Tensor) -> bool:
    """Whether a number can be read without waiting for a device or leaving a compiled graph."""
    return signal.device.type == "cpu" and not torch.compiler.is_compiling()


def _norm(signal: Tensor, dtype: torch.dtype) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(signal, dtype=dtype)
    return norm


def gradient_square(h: Tensor, delta: Tensor) -> Tensor:
    """‖δᵀ h‖_F² (…), float64, for h (…, n, m_in) and δ (…, n, m_out).

    By Gram matrices, Σ_{s,t} ⟨h_s,h_t⟩⟨δ_s,δ_t⟩, if that takes fewer multiplications.
    """
    n, m_in, m_out = h.shape[-2], h.shape[-1], delta.shape[-1]
    if n * (m_in + m_out) > m_in * m_out:
        return square_norms([delta.transpose(-2, -1) @ h])[..., 0]
    grams = (t @ t.transpose(-2, -1) for t in (h, delta))
    return torch.mul(*grams).sum((-2, -1), dtype=torch.float64)
