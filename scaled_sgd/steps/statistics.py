"""F, D and R of a minibatch's signals; ‖G_k‖_F² and soft ranks on demand (theory §2, §3).

Every formula works for one network and for a stack: leading dimensions (…) are those of the stack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from scaled_sgd.core.products import matmul

_TRIANGLE = 256
"""Least number of rows whose Gram matrix is computed by blocks of its lower triangle."""

_DOTTED = (torch.float32, torch.float64)
"""Dtypes that are squared and summed without conversion."""

_LONGEST = 2**31 - 1
"""Most elements of an inner product on a GPU."""

_SAFE = (1e-20, 3e38)
"""Sums of float32 squares in this range have lost nothing to underflow or overflow."""


@dataclass(frozen=True)
class Gradient:
    """A multiple of a layer's gradient, through the smaller of its two sides.

    Attributes:
        gram: G Gᵀ (…, m_k, m_k), or Gᵀ G (…, m_{k−1}, m_{k−1}) if that is not larger.
        times: this process's rows of M G, or of G M, for a symmetric M of the shape of ``gram``.
    """

    gram: Tensor
    times: Callable[[Tensor], Tensor]


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
        shapes: (n, m_k, m_{k−1}) of each layer; n is 0 if unknown.
        dtype: that of the signals.
        squares: measures ‖G_k‖_F² (…, layers). Collective if weights are sharded.
        grams: for the i-th layer A = δ_k δ_kᵀ and B = h_{k−1} h_{k−1}ᵀ, each (…, n, n) over the full
            minibatch, in ``dtype`` or another. Collective if weights are sharded; None if factors are not
            available.
        gradient: the i-th layer's gradient, likewise; its :class:`Gradient` is in units in which
            :attr:`Direction.dense <scaled_sgd.steps.direction.Direction.dense>` is.
    """

    layers: slice
    depth: int
    F: Tensor
    D: Tensor
    R: Tensor
    omega: Tensor
    shapes: Sequence[tuple[int, int, int]] = ()
    dtype: torch.dtype = torch.float32
    squares: Callable[[], Tensor] | None = None
    grams: Callable[..., tuple[Tensor, Tensor]] | None = None
    gradient: Callable[..., Gradient] | None = None

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
    """‖signal‖² () as float64, summed in the signal's own precision, at least float32.

    On a CPU right for finite signals of any magnitude. Elsewhere a sum of float32 squares from 1e-38 to 3e38
    is; a smaller one is 0 and a larger one inf: float64 sums would first copy the signal, and cannot be
    chosen by a number that nobody waits for.
    """
    dotted = signal.dtype in _DOTTED and signal.is_contiguous() and signal.numel() <= _LONGEST
    if dotted and not torch.compiler.is_compiling():
        square = torch.dot(signal.view(-1), signal.view(-1)).double()
    else:
        square = _norm(signal, _summed(signal)).double().square()
    if signal.dtype == torch.float64 or not reads_are_free(signal) or _SAFE[0] < float(square) < _SAFE[1]:
        return square
    return _norm(signal, torch.float64).square()


def square_into(signal: Tensor, out: Tensor) -> None:
    """‖signal‖² into ``out`` (), in its precision and range, with as few launches as there can be."""
    if signal.dtype == out.dtype and signal.is_contiguous() and signal.numel() <= _LONGEST:
        torch.dot(signal.view(-1), signal.view(-1), out=out)
    else:
        torch.linalg.vector_norm(signal, dtype=out.dtype, out=out)
        out.square_()


def square_norms(signals: Sequence[Tensor]) -> Tensor:
    """‖·‖² of each of signals (…, n, m), shape (…, len(signals)), float64; as :func:`square_norm`."""
    norms: Sequence[Tensor]
    wide = all(signal.dtype == torch.float64 for signal in signals)
    if not reads_are_free(signals[0]):
        if signals[0].ndim == 2:
            norms = torch._foreach_norm(list(signals), 2, _summed(signals[0]))
        else:
            norms = [torch.linalg.vector_norm(t, dim=(-2, -1), dtype=_summed(t)) for t in signals]
        return torch.stack(norms, -1).double().square()
    if signals[0].ndim == 2 and not all(s.is_contiguous() and s.dtype in _DOTTED for s in signals):
        return torch.stack([square_norm(signal) for signal in signals])
    if signals[0].ndim == 2:
        flat = [signal.view(-1) for signal in signals]
        squares = torch.stack([torch.dot(row, row) for row in flat]).double()
    else:
        norms = [torch.linalg.vector_norm(t, dim=(-2, -1), dtype=_summed(t)) for t in signals]
        squares = torch.stack(norms, -1).double().square()
    if wide or (squares.min() > _SAFE[0] and squares.max() < _SAFE[1]):
        return squares
    norms = [torch.linalg.vector_norm(t, dim=(-2, -1), dtype=torch.float64) for t in signals]
    return torch.stack(norms, -1).square()


def reads_are_free(signal: Tensor) -> bool:
    """Whether a number can be read without waiting for a device or leaving a compiled graph."""
    return signal.device.type == "cpu" and not torch.compiler.is_compiling()


def _summed(signal: Tensor) -> torch.dtype:
    return torch.promote_types(signal.dtype, torch.float32)


def _norm(signal: Tensor, dtype: torch.dtype) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(signal, dtype=dtype)
    return norm


def gram(t: Tensor) -> Tensor:
    """T tᵀ (…, n, n) for t (…, n, m); half of it is computed where that is faster."""
    n = t.shape[-2]
    if t.ndim > 2 or n < _TRIANGLE or t.device.type != "cpu":
        return matmul(t, t.transpose(-2, -1))
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    product, bounds = t.new_empty(n, n), [n * i // 4 for i in range(5)]
    for start, stop in pairwise(bounds):
        torch.mm(t[start:stop], t[:stop].T, out=product[start:stop, :stop])
        product[:start, start:stop] = product[start:stop, :start].T
    return product


def gradient_square(h: Tensor, delta: Tensor) -> Tensor:
    """‖δᵀ h‖_F² (…), float64, for h (…, n, m_in) and δ (…, n, m_out).

    By Gram matrices, Σ_{s,t} ⟨h_s,h_t⟩⟨δ_s,δ_t⟩, if that takes fewer multiplications.
    """
    n, m_in, m_out = h.shape[-2], h.shape[-1], delta.shape[-1]
    if n * (m_in + m_out) > m_in * m_out:
        return square_norms([matmul(delta.transpose(-2, -1), h)])[..., 0]
    return torch.mul(*(gram(t) for t in (h, delta))).sum((-2, -1), dtype=torch.float64)
