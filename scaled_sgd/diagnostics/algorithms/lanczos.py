"""Thick-restart Lanczos with full reorthogonalisation, for any storage of vectors.

K. Wu, H. Simon, SIAM J. Matrix Anal. Appl. 22 (2000). A step takes one product and one dual.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.numbers import check_integer
from scaled_sgd.diagnostics.algorithms.krylov import Basis
from scaled_sgd.diagnostics.operators.space import Operator, Vectors

Which = Literal["largest", "magnitude"]


@dataclass(frozen=True)
class Ritz:
    """Ritz pairs found by Lanczos, best first.

    Attributes:
        values: (k,), float64 on the CPU; fewer if there are fewer dimensions. One nan, not converged,
            if the operator is not finite.
        vectors: coefficients (k, size), orthonormal.
        residuals: ‖Hv − λv‖ / |λ|, (k,), from the recurrence.
        iterations: number of products with the operator.
        converged: whether every residual is within the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    iterations: int
    converged: bool


def lanczos(
    operator: Operator,
    start: Tensor,
    *,
    k: int = 1,
    which: Which = "largest",
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    basis: int = 20,
    seed: int = 0,
) -> Ritz:
    """The ``k`` algebraically largest eigenpairs, or those of largest magnitude.

    Args:
        operator: the operator.
        start: coefficients of the first vector; not modified.
        k: number of eigenpairs.
        which: ``largest`` or ``magnitude``.
        tolerance: on ‖Hv − λv‖ / |λ|.
        max_iterations: largest number of products with the operator.
        basis: number of basis vectors held, at least k + 2.
        seed: for fresh directions if an invariant subspace smaller than k is found.

    Raises:
        UserError: impossible numbers.
    """
    if which not in get_args(Which):
        raise UserError(f"which: {which!r} is unknown; allowed: {', '.join(get_args(Which))}")
    check_integer("k", k)
    check_integer("max_iterations", max_iterations)
    check_integer("basis", basis, least=k + 2)
    if not isinstance(tolerance, Real) or not 0 < tolerance < math.inf:
        raise UserError(f"tolerance: {tolerance!r} is not usable; allowed: finite numbers above 0")
    vectors = operator.vectors
    grown = Basis(operator, basis)
    fresh = grown.begin(start) or grown.begin(vectors.random(seed))
    if not fresh:
        return _nothing(vectors, grown.beta)
    iterations = 0
    theta, S, residuals = grown.T.new_empty(0), grown.T.new_empty(0, 0), grown.T.new_empty(0)
    scale = 0.0
    while fresh:
        grown.step()
        iterations += 1
        if not math.isfinite(grown.beta):
            return _nothing(vectors, math.nan, iterations)
        theta, S, residuals = ritz_pairs(grown, which)
        scale = max(scale, float(theta.abs().max()))
        floor = torch.finfo(vectors.dtype).eps * scale
        exhausted = grown.beta <= 10 * floor
        within = residuals[:k] <= torch.clamp(tolerance * theta[:k].abs(), min=floor)
        if (len(theta) >= k and bool(within.all())) or iterations == max_iterations:
            break
        if grown.count == grown.capacity:
            kept = max(k, min(k + (basis - k) // 2, basis - 2))
            grown.restart(S[:, :kept], theta[:kept], S[-1, :kept])
        if exhausted:
            fresh = any(grown.begin(vectors.random(seed + 1 + attempt)) for attempt in range(2))
        else:
            grown.advance()
    return _ritz(grown, theta[:k], S[:, :k], residuals[:k], iterations, tolerance)


def ritz_pairs(basis: Basis, which: Which) -> tuple[Tensor, Tensor, Tensor]:
    """Values, vectors (columns) and residual norms of T, wanted ones first."""
    theta, S = torch.linalg.eigh(basis.T[: basis.count, : basis.count])
    order = (theta.abs() if which == "magnitude" else theta).argsort(descending=True)
    theta, S = theta[order], S[:, order]
    return theta, S, basis.beta * S[-1].abs()


def _nothing(space: Vectors, value: float, iterations: int = 0) -> Ritz:
    """No eigenpair: the range of the operator is empty (``value`` 0), or the operator is not finite (nan)."""
    values = torch.full((1,), value, dtype=torch.float64)
    vectors = torch.zeros(1, space.size, dtype=space.dtype, device=space.device)
    return Ritz(values, vectors, values.clone(), iterations, math.isfinite(value))


def _ritz(
    basis: Basis, theta: Tensor, S: Tensor, residuals: Tensor, iterations: int, tolerance: float
) -> Ritz:
    vectors = basis.rows.combine(S.T.to(basis.vectors.device, basis.vectors.dtype))
    floor = torch.finfo(basis.vectors.dtype).eps * float(theta.abs().max()) if len(theta) else 0.0
    relative = residuals / theta.abs().clamp(min=torch.finfo(torch.float64).tiny)
    converged = bool((residuals <= torch.clamp(tolerance * theta.abs(), min=floor)).all()) and len(theta) > 0
    return Ritz(theta, vectors, relative, iterations, converged)
