"""Thick-restart Lanczos with full reorthogonalisation, whatever vectors are made of.

K. Wu, H. Simon, SIAM J. Matrix Anal. Appl. 22 (2000). Vectors are flat tensors of *coefficients* whose
inner product may be any: ⟨v, w⟩ = v · dual(w). A step takes one product with the matrix and one dual.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.numbers import check_integer
from scaled_sgd.diagnostics.rows import Rows

Which = Literal["largest", "magnitude"]


class Space(Protocol):
    """Vectors on this process, and a symmetric operator on them."""

    size: int
    dtype: torch.dtype
    device: torch.device
    identity_dual: bool

    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """Coefficients of the operator applied to the vector whose dual is given."""
        ...

    def dual(self, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
        """The dual of a vector, its coefficients when ``identity_dual``."""
        ...

    def random(self, seed: int) -> Tensor:
        """A random vector in the operator's range."""
        ...

    def sum(self, t: Tensor) -> Tensor:
        """Sum partial inner products over the processes, in place."""
        ...


@dataclass(frozen=True)
class Ritz:
    """What Lanczos found, best first.

    Attributes:
        values: (k,), float64 on the CPU; fewer when the space holds no more. One nan, not converged,
            when the operator is not finite.
        vectors: coefficients (k, size), orthonormal.
        residuals: ‖Hv − λv‖ / |λ|, (k,), as the recurrence gives them.
        iterations: products with the operator.
        converged: whether every residual is within the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    iterations: int
    converged: bool


class Basis:
    """An orthonormal Krylov basis b_0..b_j with its projected matrix T, growing by one a step."""

    def __init__(self, space: Space, capacity: int) -> None:
        self.space = space
        self.capacity = capacity
        self.vectors = Rows(capacity + 1, space.size, dtype=space.dtype, device=space.device)
        self.T = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.beta = 0.0
        self.count = 0
        self._kept = 0
        self._alpha = 0.0
        self._dual: Tensor | None = None

    def begin(self, vector: Tensor) -> bool:
        """Append ``vector``, orthonormalised, without coupling; False when nothing is left of it."""
        w = self.vectors[self.count]
        w.copy_(vector)
        self._dual = self.space.dual(w, self._dual)
        before = self._orthogonalise(w)
        if (
            not (before > 0 and math.isfinite(self.beta))
            or self.beta <= math.sqrt(torch.finfo(w.dtype).eps) * before
        ):
            return False
        self._normalise(w)
        self.beta, self._kept = 0.0, self.count
        return True

    def step(self) -> None:
        """One product: b_{j+1} and column j of T. Waits for the device once."""
        j, space, rows = self.count, self.space, self.vectors
        d = self._dual
        assert d is not None
        w = space.multiply(d, rows[j + 1])
        alpha = space.sum(torch.dot(w, d))
        first = 0 if j == self._kept else j - 1
        couplings = torch.zeros(j + 1 - first, dtype=torch.float64)
        couplings[:-1] = self.T[first:j, j]
        known = couplings.to(w)
        known[-1] = alpha
        rows.subtract(w, known, first=first)
        self.count = j + 1
        self._dual = space.dual(w, None if space.identity_dual else d)
        self._orthogonalise(w, alpha)
        self.T[j, j] = self._alpha
        if j + 1 < self.capacity:
            self.T[j, j + 1] = self.T[j + 1, j] = self.beta

    def advance(self) -> None:
        """Make the last residual the next basis vector."""
        self._normalise(self.vectors[self.count])

    def restart(self, S: Tensor, theta: Tensor, seed_row: Tensor) -> None:
        """Keep the Ritz vectors S (count, kept) with values theta, and the residual vector."""
        kept, rows = S.shape[1], self.vectors
        rows.rotate(S.T.to(self.space.device, self.space.dtype))
        rows[kept].copy_(rows[self.count])
        self.T.zero_()
        self.T[:kept, :kept] = torch.diag(theta)
        self.T[:kept, kept] = self.T[kept, :kept] = seed_row * self.beta
        self.count = self._kept = kept
        if self.space.identity_dual:
            self._dual = rows[kept]

    def _orthogonalise(self, w: Tensor, alpha: Tensor | None = None) -> float:
        """Take b_0..b_{count−1} out of w and set beta = ‖w‖; returns the norm before.

        The removed part is rounding as a rule; then the dual, off by as little, is kept. Otherwise it is
        computed anew and the removal repeated, for twice is enough.
        """
        limit = math.sqrt(torch.finfo(w.dtype).eps)
        before = 0.0
        for attempt in range(3):
            d = self._dual
            assert d is not None
            overlaps = w.new_empty(self.count + 2)
            self.vectors.dots(d, overlaps[: self.count])
            overlaps[-2] = torch.dot(w, d)
            overlaps[-1] = 0.0
            self.space.sum(overlaps)
            if alpha is not None:
                overlaps[-1] = alpha
            removed = overlaps[: self.count]
            self.vectors.subtract(w, removed)
            host = overlaps.double().cpu()
            square, removed_square = float(host[-2]), float(host[:-2].square().sum())
            self._alpha = float(host[-1])
            if attempt == 0:
                before = math.sqrt(max(square, 0.0))
            self.beta = math.sqrt(max(square - removed_square, 0.0)) if math.isfinite(square) else math.nan
            if removed_square <= limit**2 * max(square, 0.0):
                break
            self._dual = self.space.dual(w, None if self.space.identity_dual else d)
        return before

    def _normalise(self, w: Tensor) -> None:
        w /= self.beta
        if not self.space.identity_dual:
            assert self._dual is not None
            self._dual /= self.beta


def lanczos(
    space: Space,
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
        space: the operator.
        start: coefficients of the first vector, overwritten by nothing.
        k: how many.
        which: ``largest`` or ``magnitude``.
        tolerance: on ‖Hv − λv‖ / |λ|.
        max_iterations: products with the operator.
        basis: vectors held at a time, at least k + 2.
        seed: for fresh directions when an invariant subspace smaller than k is found.

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
    grown = Basis(space, basis)
    fresh = grown.begin(start) or grown.begin(space.random(seed))
    if not fresh:
        return _nothing(space, grown.beta)
    iterations = 0
    theta, S, residuals = grown.T.new_empty(0), grown.T.new_empty(0, 0), grown.T.new_empty(0)
    scale = 0.0
    while fresh:
        grown.step()
        iterations += 1
        if not math.isfinite(grown.beta):
            return _nothing(space, math.nan, iterations)
        theta, S, residuals = ritz_pairs(grown, which)
        scale = max(scale, float(theta.abs().max()))
        floor = torch.finfo(space.dtype).eps * scale
        exhausted = grown.beta <= 10 * floor
        within = residuals[:k] <= torch.clamp(tolerance * theta[:k].abs(), min=floor)
        if (len(theta) >= k and bool(within.all())) or iterations == max_iterations:
            break
        if grown.count == grown.capacity:
            kept = max(k, min(k + (basis - k) // 2, basis - 2))
            grown.restart(S[:, :kept], theta[:kept], S[-1, :kept])
        if exhausted:
            fresh = any(grown.begin(space.random(seed + 1 + attempt)) for attempt in range(2))
        else:
            grown.advance()
    return _ritz(grown, theta[:k], S[:, :k], residuals[:k], iterations, tolerance)


def ritz_pairs(basis: Basis, which: Which) -> tuple[Tensor, Tensor, Tensor]:
    """Values, vectors (columns) and residual norms of T, wanted ones first."""
    theta, S = torch.linalg.eigh(basis.T[: basis.count, : basis.count])
    order = (theta.abs() if which == "magnitude" else theta).argsort(descending=True)
    theta, S = theta[order], S[:, order]
    return theta, S, basis.beta * S[-1].abs()


def _nothing(space: Space, value: float, iterations: int = 0) -> Ritz:
    """No eigenpair: the range of the operator is empty (``value`` 0), or numbers are not finite (nan)."""
    values = torch.full((1,), value, dtype=torch.float64)
    vectors = torch.zeros(1, space.size, dtype=space.dtype, device=space.device)
    return Ritz(values, vectors, values.clone(), iterations, math.isfinite(value))


def _ritz(
    basis: Basis, theta: Tensor, S: Tensor, residuals: Tensor, iterations: int, tolerance: float
) -> Ritz:
    vectors = basis.vectors.combine(S.T.to(basis.space.device, basis.space.dtype))
    floor = torch.finfo(basis.space.dtype).eps * float(theta.abs().max()) if len(theta) else 0.0
    relative = residuals / theta.abs().clamp(min=torch.finfo(torch.float64).tiny)
    converged = bool((residuals <= torch.clamp(tolerance * theta.abs(), min=floor)).all()) and len(theta) > 0
    return Ritz(theta, vectors, relative, iterations, converged)
