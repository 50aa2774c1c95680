"""An orthonormal Krylov basis, fully reorthogonalised, in any inner product."""

import math

import torch
from torch import Tensor

from scaled_sgd.diagnostics.algorithms.rows import Rows
from scaled_sgd.diagnostics.operators.space import Operator

AHEAD = 4
"""Products between two waits for a device that works ahead of the host; a CPU does not."""


def products_ahead(device: torch.device) -> int:
    """Products that are started before the first of their results is looked at."""
    return 1 if device.type == "cpu" else AHEAD


class Basis:
    """An orthonormal Krylov basis b_0..b_j with its projected matrix T, growing by one a product."""

    def __init__(self, operator: Operator, capacity: int) -> None:
        self.operator, self.vectors = operator, operator.vectors
        self.capacity = capacity
        self.rows = Rows(
            capacity + 1, self.vectors.size, dtype=self.vectors.dtype, device=self.vectors.device
        )
        self.T = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.beta = 0.0
        self.count = 0
        self._limit = math.sqrt(torch.finfo(self.vectors.dtype).eps)
        self._kept = 0
        self._alpha = 0.0
        self._dual: Tensor | None = None
        self._advanced = self._careful = False

    def begin(self, vector: Tensor) -> bool:
        """Append ``vector``, orthonormalised, without coupling; False if it lies in the span of the basis."""
        w = self.rows[self.count]
        w.copy_(vector)
        self._dual = self.vectors.dual(w, self._dual)
        before = self._orthogonalise(w)
        if not (before > 0 and math.isfinite(self.beta)) or self.beta <= self._limit * before:
            return False
        self._normalise(w, self.beta)
        self.beta, self._kept = 0.0, self.count
        return True

    def grow(self, number: int) -> list[float]:
        """Up to ``number`` products with one wait for the device. Returns their β: norms of their residuals.

        Products after the first rest on the assumption that what reorthogonalising removes is rounding. They
        are dropped from the one on where it does not hold; the next call takes that one by :meth:`step`.
        """
        if number == 1 or self._careful:
            self._careful = False
            self.step()
            return [self.beta]
        first, betas = self.count, list[float]()
        started: list[Tensor] = []
        for _ in range(number):
            started.append(self._step_ahead(started[-1][-1] if started else None))
        found = torch.stack(started).tolist()
        for j, (square, removed, alpha, beta) in enumerate(found, start=first):
            if removed > self._limit**2 * max(square, 0.0):
                self._careful = True
                break
            self._put(j, alpha, beta)
            betas.append(beta)
        if not betas:
            self._return_to(first)
            return self.grow(1)
        if len(betas) < number:
            self._return_to(first + len(betas))
        self.beta, self._advanced = betas[-1], True
        return betas

    def cut(self, count: int, beta: float) -> None:
        """Forget the products after the first ``count``, the last of which has a residual of norm ``beta``.

        The basis may grow again after :meth:`begin` only.
        """
        self.count, self.beta = count, beta

    def step(self) -> None:
        """One product: b_{j+1} and column j of T. Synchronises with the device."""
        w, alpha = self._product(None)
        self._orthogonalise(w, alpha)
        self._put(self.count - 1, self._alpha, self.beta)
        self._advanced = False

    def advance(self) -> None:
        """Make the last residual the next basis vector."""
        if not self._advanced:
            self._normalise(self.rows[self.count], self.beta)
        self._advanced = False

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

    def _put(self, j: int, alpha: float, beta: float) -> None:
        self.T[j, j] = alpha
        if j + 1 < self.capacity:
            self.T[j, j + 1] = self.T[j + 1, j] = beta

    def _return_to(self, count: int) -> None:
        """Continue from b_count, which exists."""
        self.count = count
        self._dual = self.vectors.dual(self.rows[count], None if self.vectors.identity_dual else self._dual)

    def _product(self, beta: Tensor | None) -> tuple[Tensor, Tensor]:
        """The product with b_j without its known part, and α_j; ``beta`` is a β_{j−1} not read yet."""
        j, vectors, rows = self.count, self.vectors, self.rows
        d = self._dual
        assert d is not None
        w = self.operator.multiply(d, rows[j + 1])
        alpha = vectors.sum(torch.dot(w, d))
        first = 0 if j == self._kept else j - 1
        if j == self._kept:
            known = torch.cat((self.T[:j, j].to(w), alpha[None])) if j else alpha[None]
        else:
            before = w.new_full((), self.beta) if beta is None else beta.to(w.dtype)
            known = torch.stack((before, alpha))
        rows.subtract(w, known, first=first)
        self.count = j + 1
        self._dual = vectors.dual(w, None if vectors.identity_dual else d)
        return w, alpha

    def _step_ahead(self, beta: Tensor | None) -> Tensor:
        """One product and b_{j+1} without waiting: (‖w‖², what was removed of it, α_j, β_j), float64."""
        w, alpha = self._product(beta)
        overlaps = self._overlaps(w)
        removed = overlaps[: self.count]
        self.rows.subtract(w, removed)
        wide = overlaps.double()
        square, removed_square = wide[-2], wide[: self.count].square().sum()
        beta = (square - removed_square).clamp(min=0).sqrt()
        self._normalise(w, beta)
        return torch.stack((square, removed_square, alpha.double(), beta))

    def _overlaps(self, w: Tensor) -> Tensor:
        """⟨b_i, w⟩ for all i < count, ⟨w, w⟩ and room for one number more."""
        assert self._dual is not None
        overlaps = w.new_zeros(self.count + 2)
        self.rows.dots(self._dual, overlaps[: self.count])
        overlaps[-2] = torch.dot(w, self._dual)
        return self.vectors.sum(overlaps)

    def _orthogonalise(self, w: Tensor, alpha: Tensor | None = None) -> float:
        """Remove b_0..b_{count−1} from w and set beta = ‖w‖; returns the norm before.

        The removed part is usually rounding; then the dual, whose error is as small, is kept. Otherwise the
        dual is recomputed and the removal repeated: twice is enough.
        """
        before = 0.0
        for attempt in range(3):
            d = self._dual
            overlaps = self._overlaps(w)
            if alpha is not None:
                overlaps[-1] = alpha
            self.rows.subtract(w, overlaps[: self.count])
            host = overlaps.double().cpu()
            square, removed_square = float(host[-2]), float(host[:-2].square().sum())
            self._alpha = float(host[-1])
            if attempt == 0:
                before = math.sqrt(max(square, 0.0))
            self.beta = math.sqrt(max(square - removed_square, 0.0)) if math.isfinite(square) else math.nan
            if removed_square <= self._limit**2 * max(square, 0.0):
                break
            self._dual = self.vectors.dual(w, None if self.vectors.identity_dual else d)
        return before

    def _normalise(self, w: Tensor, beta: float | Tensor) -> None:
        w /= beta
        if not self.vectors.identity_dual:
            assert self._dual is not None
            self._dual /= beta
