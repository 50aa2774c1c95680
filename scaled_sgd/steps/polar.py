"""Polar factors δᵀ K h of δᵀ h by Newton–Schulz iterations on K (theory §3b, ours).

With A = δ δᵀ and B = h hᵀ, δᵀ K h = U Vᵀ of the thin SVD for K = (B A)^{−1/2} on the non-zero eigenvalues. The
iteration X ← a X + b X XᵀX + c (X Xᵀ)² X on X = δᵀ K h is K ← (a I + b P + c P²) K with P = K B Kᵀ A. All these
matrices are polynomials in B A, so they commute and P ← (a I + b P + c P²)² P. With A = I and B the smaller
of G Gᵀ and Gᵀ G the same iteration works in the gradient's own space.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.steps.schedules import Coefficients, Polar, bounds
from scaled_sgd.steps.statistics import Statistics

LANCZOS = 8
"""Steps of the search for a largest singular value."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Products in the precision of their factors: no TF32, no bfloat16, no autocast."""
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


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
            A = torch.stack([grams[i][0] for i in layers]) if inside else None
            B = torch.stack([grams[i][1] if inside else sides[i].gram for i in layers])
            flat = [None if t is None else t.reshape(-1, size, size) for t in (A, B)]
            K, top = polar_kernels(*flat, polar.coefficients, eps=torch.finfo(s.dtype).eps)
            for i, own, value in zip(layers, K.view(B.shape), top.view(B.shape[:-2]), strict=True):
                kernels[i], largest[i] = own, value
        count = range(len(sampled))
        return PolarFactors(
            [kernels[i].to(s.dtype) if sampled[i] else None for i in count],
            [None if sampled[i] else sides[i].times(kernels[i]).to(s.dtype) for i in count],
            torch.stack([largest[i] for i in count], -1),
        )


def in_sample_space(n: int, m_out: int, m_in: int, polar: Polar) -> bool:
    """Whether K (n, n) takes fewer multiplications than the smaller side of a gradient (m_out, m_in) does.

    Sample space: two Gram matrices, the iteration and the product with the narrower factor. The gradient's own
    space: one Gram matrix, the iteration and the product with the gradient. In sample spaces larger than the
    gradient's own rounding grows from step to step.
    """
    small, large = sorted((m_out, m_in))
    iteration = 4 * polar.iterations - 2
    sampled = n * n * (m_out + m_in + small) + iteration * n**3
    return 0 < n <= small and sampled <= 2 * small * small * large + iteration * small**3


def polar_kernels(
    A: Tensor | None, B: Tensor, coefficients: tuple[Coefficients, ...] | None, *, eps: float
) -> tuple[Tensor, Tensor]:
    """K and ‖δᵀ K h‖_2 / ‖δᵀ h‖_F for L layers, from K = I; the latter is 0 where δᵀ h = 0.

    Args:
        A: δ δᵀ (L, n, n); None for I.
        B: h hᵀ (L, n, n).
        coefficients: of the iteration; None for the limit K = (B A)^{−1/2} ‖δᵀ h‖_F, in float64.
        eps: machine precision of the signals: the limit leaves out singular values below n · eps.

    Returns:
        K (L, n, n) and the ratios (L,), float64, to 5 %.
    """
    if coefficients is None:
        A, B = (None if t is None else t.double() for t in (A, B))
        assert B is not None
    B = B * _inverse(B.diagonal(dim1=-2, dim2=-1).sum(-1))
    if A is not None:
        A = A * _inverse(A.diagonal(dim1=-2, dim2=-1).sum(-1))
        B = B * _inverse((A * B).sum((-2, -1)))
    if coefficients is None:
        return limit(A, B, eps=eps)
    K = newton_schulz(A, B, coefficients)
    low, high = bounds(coefficients, B.shape[-1])
    if high <= 1.1 * low:
        return K, torch.full(B.shape[:1], (low * high) ** 0.5, device=B.device, dtype=torch.float64)
    return K, largest_singular_value(K, A, B)


def _inverse(number: Tensor) -> Tensor:
    return torch.where(number > 0, 1 / number, 0.0)[..., None, None]


def newton_schulz(A: Tensor | None, B: Tensor, coefficients: Sequence[Coefficients]) -> Tensor:
    """K (L, n, n) after the iteration from K = I, for tr(B A) = 1."""
    P = B if A is None else torch.bmm(B, A)
    K: Tensor | None = None
    for step, (a, b, c) in enumerate(coefficients, start=1):
        Q = torch.baddbmm(P, P, P, beta=b, alpha=c)
        Q.diagonal(dim1=-2, dim2=-1).add_(a)
        K = Q if K is None else torch.bmm(Q, K)
        if step < len(coefficients):
            P = torch.bmm(Q, torch.bmm(Q, P))
    assert K is not None
    return K


def largest_singular_value(K: Tensor, A: Tensor | None, B: Tensor) -> Tensor:
    """‖δᵀ K h‖_2 (L,), float64, by Lanczos on K B Kᵀ A, which is symmetric in the inner product of A."""
    n = B.shape[-1]
    start = torch.arange(1, n + 1, device=B.device, dtype=torch.float64).square().sin()
    v = start.to(B.dtype)[:, None].expand(len(B), n, 1)
    before, beta = torch.zeros_like(v), torch.zeros_like(v[:, :1])
    T = torch.zeros(len(B), LANCZOS, LANCZOS, device=B.device, dtype=torch.float64)
    Av = v if A is None else _times(A, v)
    for j in range(LANCZOS):
        square = (v * Av).sum((-2, -1), keepdim=True).clamp(min=0)
        length = square.sqrt()
        if j:
            # A direction that rounding made is none.
            length = torch.where(length > 1e-3 * first, length, 0.0)
            T[:, j - 1, j] = T[:, j, j - 1] = length[:, 0, 0].double()
            beta = length
        inverse = torch.where(length > 0, 1 / length, 0.0)
        v, Av = v * inverse, Av * inverse
        t = _times(K.transpose(1, 2), Av)
        y = _times(B, t)
        alpha = (t * y).sum((-2, -1), keepdim=True)
        T[:, j, j] = alpha[:, 0, 0].double()
        if j == 0:
            first = alpha
        if j + 1 < LANCZOS:
            w = _times(K, y) - alpha * v - beta * before
            before, v = v, w
            Av = v if A is None else _times(A, v)
    # The largest eigenvalue by squaring, since a decomposition would wait for the device.
    R = T
    for _ in range(8):
        R = R @ R
        R = R * _inverse(R.diagonal(dim1=-2, dim2=-1).sum(-1))
    return (R * T).sum((-2, -1)).sqrt()


def _times(matrices: Tensor, v: Tensor) -> Tensor:
    # A batch of one with one column is slow as a batch.
    return torch.mm(matrices[0], v[0])[None] if len(matrices) == 1 else torch.bmm(matrices, v)


def limit(A: Tensor | None, B: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """(B A)^{−1/2} on the non-zero eigenvalues (L, n, n), and ones or zeros (L,); float64."""
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
    return tuple(
        (vectors * powers[..., None, :]) @ vectors.transpose(-2, -1) for powers in (roots, inverse)
    )
