"""Polar factors δᵀ K h of δᵀ h by Newton–Schulz iterations on K (theory §3b, ours).

With A = δ δᵀ and B = h hᵀ, δᵀ K h = U Vᵀ of the thin SVD for K = (B A)^{−1/2} on the non-zero eigenvalues.
The iteration X ← a X + b X XᵀX + c (X Xᵀ)² X on X = δᵀ K h is K ← (a I + b P + c P²) K with P = K B Kᵀ A.
These matrices are polynomials in B A, so they commute and P ← (a I + b P + c P²)² P. With A = I and B the
smaller of G Gᵀ and Gᵀ G the same iteration works in the gradient's own space.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.core.products import full_float32
from scaled_sgd.steps.polynomials import Coefficients, Polar, bounds
from scaled_sgd.steps.sizes import in_sample_space
from scaled_sgd.steps.statistics import Statistics

SQUARINGS = 5
"""Squarings of a matrix whose largest eigenvalue is measured."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Products in the precision of their factors: no TF32, no bfloat16, no autocast."""
    with full_float32(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@dataclass(frozen=True)
class PolarFactors:
    """δ_kᵀ K_k h_{k−1} = U Vᵀ · ‖δ_kᵀ h_{k−1}‖_F, exactly or by some steps of an iteration, of each layer.

    Attributes:
        matrices: K_k (…, n, n), or None.
        dense: this process's rows of the product where K_k is not given, or None.
        largest: its largest singular value over ‖δ_kᵀ h_{k−1}‖_F, (…, layers), float64, to 5 %.
    """

    matrices: Sequence[Tensor | None]
    dense: Sequence[Tensor | None]
    largest: Tensor


def polar_factors(s: Statistics, polar: Polar) -> PolarFactors:
    """The polar factors of the gradients of some layers. Collective if weights are sharded.

    A layer is computed in sample space if that is smaller than its gradient's own and takes fewer
    multiplications. Layers whose matrices have one size are computed together. Replicas repeat the work.
    """
    with full_precision():
        dtype = torch.float64 if polar.precise and s.dtype != torch.float64 else None
        sampled = [s.grams is not None and in_sample_space(*shape, polar) for shape in s.shapes]
        assert s.gradient is not None
        sides = {i: s.gradient(i, dtype) for i, inside in enumerate(sampled) if not inside}
        grams = {i: s.grams(i, dtype) for i, inside in enumerate(sampled) if inside and s.grams is not None}
        groups: dict[tuple[bool, int], list[int]] = {}
        for i, inside in enumerate(sampled):
            size = (grams[i][1] if inside else sides[i].gram).shape[-1]
            groups.setdefault((inside, size), []).append(i)
        kernels: dict[int, Tensor] = {}
        largest: dict[int, Tensor] = {}
        for (inside, size), layers in groups.items():
            A = _together([grams[i][0] for i in layers], size) if inside else None
            B = _together([grams[i][1] if inside else sides[i].gram for i in layers], size)
            if polar.coefficients is None:
                K, top = limit(A, B, eps=torch.finfo(s.dtype).eps)
            else:
                K, top = polar_kernels(B if A is None else torch.bmm(B, A), polar.coefficients)
            shape = len(layers), *s.F.shape[:-1]
            for i, own, value in zip(layers, K.view(*shape, size, size), top.view(shape), strict=True):
                kernels[i], largest[i] = own, value
        count = range(len(sampled))
        return PolarFactors(
            [kernels[i].to(s.dtype) if sampled[i] else None for i in count],
            [None if sampled[i] else sides[i].times(kernels[i]).to(s.dtype) for i in count],
            torch.stack([largest[i] for i in count], -1),
        )


def _together(matrices: Sequence[Tensor], size: int) -> Tensor:
    """Matrices (…, size, size) of several layers as one batch, without a copy of a single one."""
    together = torch.stack(list(matrices)) if len(matrices) > 1 else matrices[0]
    return together.reshape(-1, size, size)


def polar_kernels(T: Tensor, coefficients: tuple[Coefficients, ...]) -> tuple[Tensor, Tensor]:
    """K and ‖δᵀ K h‖_2 / ‖δᵀ h‖_F for L layers after the iteration from K = I.

    Args:
        T: B A (L, n, n).
        coefficients: of the iteration.

    Returns:
        K (L, n, n) and the ratios (L,), float64, to 5 %; the latter are 0 where squares of δᵀ h underflow.
    """
    trace = _trace(T)
    seen = trace > torch.finfo(T.dtype).tiny ** 0.8
    low, high = bounds(coefficients, T.shape[-1])
    measure = high > 1.1 * low
    K, P = newton_schulz(T * _inverse(torch.where(seen, trace, 0.0)), coefficients, measure=measure)
    return K, (largest_eigenvalue(P).sqrt() if measure else (low * high) ** 0.5) * seen.double()


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def _inverse(number: Tensor) -> Tensor:
    return torch.where(number > 0, 1 / number, 0.0)[..., None, None]


def newton_schulz(P: Tensor, coefficients: Sequence[Coefficients], *, measure: bool) -> tuple[Tensor, Tensor]:
    """K (L, n, n) after the iteration from K = I, and, with ``measure``, its P; P = B A is overwritten."""
    Q, spare, K = torch.empty_like(P), torch.empty_like(P), None
    for step, (a, b, c) in enumerate(coefficients, start=1):
        torch.baddbmm(P, P, P, beta=b, alpha=c, out=Q)
        Q.diagonal(dim1=-2, dim2=-1).add_(a)
        if measure or step < len(coefficients):
            torch.bmm(Q, P, out=spare)
            torch.bmm(Q, spare, out=P)
        if K is None:
            K, Q = Q, torch.empty_like(P)
        else:
            K, spare = torch.bmm(Q, K, out=spare), K
    assert K is not None
    return K, P


def largest_eigenvalue(P: Tensor) -> Tensor:
    """tr(P^{m+1}) / tr(P^m) (L,), float64, m = 2^SQUARINGS: within 10 % of the largest, if none is negative.

    Traces are the same in sample space and in the gradient's own; a search from a start vector would find
    different values.
    """
    R = P
    for _ in range(SQUARINGS):
        R = R * _inverse(_trace(R))
        R = torch.bmm(R, R)
    return (R * P.transpose(1, 2)).sum((-2, -1), dtype=torch.float64) * _inverse(_trace(R))[:, 0, 0]


def limit(A: Tensor | None, B: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """K = (B A)^{−1/2} ‖δᵀ h‖_F on the non-zero eigenvalues, and ‖δᵀ K h‖_2 / ‖δᵀ h‖_F: 1, or 0 if δᵀ h = 0.

    Args:
        A: δ δᵀ (L, n, n), float64; None for I.
        B: h hᵀ (L, n, n), float64.
        eps: machine precision of the signals; singular values below n · eps are left out.

    Returns:
        (L, n, n) and (L,), float64.
    """
    B = B * _inverse(_trace(B))
    if A is not None:
        A = A * _inverse(_trace(A))
        B = B * _inverse((A * B).sum((-2, -1)))
    least = max(B.shape[-1] * torch.finfo(torch.float64).eps, (B.shape[-1] * eps) ** 2)
    C, C_inverse = _root(B, least)
    if A is None:
        return C_inverse, (C_inverse.abs().sum((-2, -1)) > 0).double()
    S = C.transpose(-2, -1) @ A @ C
    values, vectors = torch.linalg.eigh(S)
    kept = values > least * values[..., -1:].clamp(min=0)
    powers = torch.where(kept, values.clamp(min=1e-300).rsqrt(), 0.0)
    K = C @ (vectors * powers[..., None, :]) @ vectors.transpose(-2, -1) @ C_inverse
    return K, kept.any(-1).double()


def _root(B: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """B^{1/2} and its pseudo-inverse (L, n, n)."""
    values, vectors = torch.linalg.eigh(B)
    kept = values > least * values[..., -1:].clamp(min=0)
    roots = torch.where(kept, values.clamp(min=0).sqrt(), 0.0)
    inverse = torch.where(kept, values.clamp(min=1e-300).rsqrt(), 0.0)
    return tuple((vectors * powers[..., None, :]) @ vectors.transpose(-2, -1) for powers in (roots, inverse))
