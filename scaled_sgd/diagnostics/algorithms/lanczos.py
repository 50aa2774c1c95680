"""Thick-restart Lanczos with full reorthogonalisation, for any storage of vectors.

K. Wu, H. Simon, SIAM J. Matrix Anal. Appl. 22 (2000). A step takes one product and one dual.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.numbers import check_integer
from scaled_sgd.diagnostics.algorithms.krylov import Basis, products_ahead
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
    least: float = 0.0,
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
        least: a ‖Hv − λv‖ that is small enough for any λ.
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
    search = _Search(grown, k, which, tolerance, least)
    ahead, iterations = products_ahead(vectors.device), 0
    while fresh:
        first = grown.count
        # Short searches, which most are, look more often: what is started too much is lost.
        number = min(ahead, 2 + iterations // 4)
        betas = grown.grow(min(number, grown.capacity - first, max_iterations - iterations))
        search.look(first, betas)
        iterations += grown.count - first
        if not math.isfinite(grown.beta):
            return _nothing(vectors, math.nan, iterations)
        if search.converged or iterations == max_iterations:
            break
        theta, S = search.theta, search.S
        if grown.count == grown.capacity:
            kept = max(k, min(k + (basis - k) // 2, basis - 2))
            grown.restart(S[:, :kept], theta[:kept], S[-1, :kept])
        if search.exhausted:
            fresh = any(grown.begin(vectors.random(seed + 1 + attempt)) for attempt in range(2))
        else:
            grown.advance()
    return _ritz(search, k, iterations)


class _Search:
    """The Ritz pairs of a growing basis, looked at where they may have converged.

    Attributes:
        theta: Ritz values, wanted ones first.
        S: Ritz vectors in the basis, columns.
        residuals: norms of the residuals.
        converged: whether the k first are within the tolerance.
        exhausted: whether the basis spans an invariant subspace.
    """

    def __init__(self, basis: Basis, k: int, which: Which, tolerance: float, least: float) -> None:
        self.basis, self._k, self._which = basis, k, which
        self._tolerance, self._least = tolerance, least
        self._scale = 0.0
        self.theta, self.S, self.residuals = (basis.T.new_empty(shape) for shape in (0, (0, 0), 0))
        self.converged = self.exhausted = False

    def look(self, first: int, betas: Sequence[float]) -> None:
        """Look at the last of the products, with norms β, that the basis grew by since it had ``first``.

        If there is nothing to find after one before, the basis is cut after the first such.
        """
        products = list(enumerate(betas, start=first + 1))
        T = self.basis.T[: first + len(betas), : first + len(betas)]
        # A β of 0 leaves noise behind it; not all comparisons with nan are true.
        sound = len(betas) > 1 and all(beta > 10 * self._eps * float(T.abs().max()) for beta in betas)
        if sound:
            self._take(*products[-1])
        if not sound or self.converged:
            for product in products:
                self._take(*product)
                if self.converged or self.exhausted or not math.isfinite(product[1]):
                    break

    def _take(self, count: int, beta: float) -> None:
        self.basis.cut(count, beta)
        if not math.isfinite(beta):
            return
        self.theta, self.S, self.residuals = ritz_pairs(self.basis, self._which)
        self._scale = max(self._scale, float(self.theta.abs().max()))
        self.exhausted = beta <= 10 * self._eps * self._scale
        self.converged = len(self.theta) >= self._k and self.within(self._k, self._scale)

    def within(self, k: int, scale: float) -> bool:
        """Whether the residuals of the k first are small enough, with rounding of this scale."""
        floor = max(self._eps * scale, self._least)
        allowed = torch.clamp(self._tolerance * self.theta[:k].abs(), min=floor)
        return bool((self.residuals[:k] <= allowed).all())

    @property
    def _eps(self) -> float:
        return torch.finfo(self.basis.vectors.dtype).eps


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


def _ritz(search: _Search, k: int, iterations: int) -> Ritz:
    basis, theta, residuals = search.basis, search.theta[:k], search.residuals[:k]
    vectors = basis.rows.combine(search.S[:, :k].T.to(basis.vectors.device, basis.vectors.dtype))
    relative = residuals / theta.abs().clamp(min=torch.finfo(torch.float64).tiny)
    converged = len(theta) > 0 and search.within(k, float(theta.abs().max()))
    return Ritz(theta, vectors, relative, iterations, converged)
