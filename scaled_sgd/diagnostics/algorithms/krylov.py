"""An orthonormal Krylov basis, fully reorthogonalised, in any inner product."""

import math

import torch
from torch import Tensor

from scaled_sgd.diagnostics.algorithms.rows import Rows
from scaled_sgd.diagnostics.operators.space import Operator


class Basis:
    """An orthonormal Krylov basis b_0..b_j with its projected matrix T, growing by one a step."""

    def __init__(self, operator: Operator, capacity: int) -> None:
        self.operator, self.vectors = operator, operator.vectors
        self.capacity = capacity
        self.rows = Rows(
            capacity + 1, self.vectors.size, dtype=self.vectors.dtype, device=self.vectors.device
        )
        self.T = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.beta = 0.0
        self.count = 0
        self._kept = 0
        self._alpha = 0.0
        self._dual: Tensor | None = None

    def begin(self, vector: Tensor) -> bool:
        """Append ``vector``, orthonormalised, without coupling; False if it lies in the span of the basis."""
        w = self.rows[self.count]
        w.copy_(vector)
        self._dual = self.vectors.dual(w, self._dual)
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
        """One product: b_{j+1} and column j of T. Synchronises with the device once."""
        j, vectors, rows = self.count, self.vectors, self.rows
        d = self._dual
        assert d is not None
        w = self.operator.multiply(d, rows[j + 1])
        alpha = vectors.sum(torch.dot(w, d))
        first = 0 if j == self._kept else j - 1
        couplings = torch.zeros(j + 1 - first, dtype=torch.float64)
        couplings[:-1] = self.T[first:j, j]
        known = couplings.to(w)
        known[-1] = alpha
        rows.subtract(w, known, first=first)
        self.count = j + 1
        self._dual = vectors.dual(w, None if vectors.identity_dual else d)
        self._orthogonalise(w, alpha)
        self.T[j, j] = self._alpha
        if j + 1 < self.capacity:
            self.T[j, j + 1] = self.T[j + 1, j] = self.beta

    def advance(self) -> None:
        """Make the last residual the next basis vector."""
        self._normalise(self.rows[self.count])

    def restart(self, S: Tensor, theta: Tensor, seed_row: Tensor) -> None:
        """Keep the Ritz vectors S (count, kept) with values theta, and the residual vector."""
        kept, rows = S.shape[1], self.rows
        rows.rotate(S.T.to(self.vectors.device, self.vectors.dtype))
        rows[kept].copy_(rows[self.count])
        self.T.zero_()
        self.T[:kept, :kept] = torch.diag(theta)
        self.T[:kept, kept] = self.T[kept, :kept] = seed_row * self.beta
        self.count = self._kept = kept
        if self.vectors.identity_dual:
            self._dual = rows[kept]

    def _orthogonalise(self, w: Tensor, alpha: Tensor | None = None) -> float:
        """Remove b_0..b_{count−1} from w and set beta = ‖w‖; returns the norm before.

        The removed part is usually rounding; then the dual, whose error is as small, is kept. Otherwise the
        dual is recomputed and the removal repeated: twice is enough.
        """
        limit = math.sqrt(torch.finfo(w.dtype).eps)
        before = 0.0
        for attempt in range(3):
            d = self._dual
            assert d is not None
            overlaps = w.new_empty(self.count + 2)
            self.rows.dots(d, overlaps[: self.count])
            overlaps[-2] = torch.dot(w, d)
            overlaps[-1] = 0.0
            self.vectors.sum(overlaps)
            if alpha is not None:
                overlaps[-1] = alpha
            removed = overlaps[: self.count]
            self.rows.subtract(w, removed)
            host = overlaps.double().cpu()
            square, removed_square = float(host[-2]), float(host[:-2].square().sum())
            self._alpha = float(host[-1])
            if attempt == 0:
                before = math.sqrt(max(square, 0.0))
            self.beta = math.sqrt(max(square - removed_square, 0.0)) if math.isfinite(square) else math.nan
            if removed_square <= limit**2 * max(square, 0.0):
                break
            self._dual = self.vectors.dual(w, None if self.vectors.identity_dual else d)
        return before

    def _normalise(self, w: Tensor) -> None:
        w /= self.beta
        if not self.vectors.identity_dual:
            assert self._dual is not None
            self._dual /= self.beta
