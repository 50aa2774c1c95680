"""The central flow of gradient descent (arXiv 2410.24206; theory §10)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.flow.complementarity import complementary
from scaled_sgd.diagnostics.flow.landscape import Landscape, Point

NEAR = 0.8
"""Eigenvalues above this part of 2/η may oscillate within a substep."""
_MOST = 30
"""Most of them: each pair takes a vector of the weights' size."""
_RESIDUAL = 1e-4


@dataclass(frozen=True)
class Averaged:
    """Time averages over one step.

    Attributes:
        oscillation: tr Σ, the mean square distance of gradient descent from the flow.
        loss: L + ½⟨H, Σ⟩, the mean loss of gradient descent.
    """

    oscillation: float
    loss: float


class CentralFlow:
    """dw/dt = −η(∇L + ½ Σ_ij X_ij D³L[u_i, u_j, ·]), a time unit being a step of gradient descent.

    Σ = U X Uᵀ, the covariance of the oscillations, is the one that lets no eigenvalue of H pass 2/η and is 0
    where none is there: 0 ⪯ X ⟂ 2/η − UᵀHU ⪰ 0. By substeps, of Runge–Kutta along the gradient and of Euler
    along the rest: X makes the linearised UᵀHU at their end comply, so that eigenvalues exceed 2/η by what is
    of second order in a substep.

    Args:
        landscape: the loss.
        w: weights at t = 0, (N,).
        lr: η.
        count: number of eigenvalues that are searched for; grows where more are near 2/η.
        substeps: per step.

    Attributes:
        w: weights now.
        point: the loss there.
        eigenvalues: the largest of H, best first.
    """

    def __init__(self, landscape: Landscape, w: Tensor, lr: float, *, count: int, substeps: int) -> None:
        self._landscape, self._lr, self._substeps = landscape, lr, substeps
        self._vectors: Tensor | None = None
        self._count = count
        self._go_to(w)

    def advance(self) -> Averaged:
        """One step.

        Raises:
            UserError: no covariance keeps the eigenvalues at 2/η.
        """
        oscillation = loss = 0.0
        for _ in range(self._substeps):
            move, X, values = self._pushed()
            oscillation += float(X.trace())
            loss += self.point.loss + 0.5 * float(values @ X.diagonal())
            self._go_to(descended(self._landscape, self.point, self.w, self._lr / self._substeps) + move)
        return Averaged(oscillation / self._substeps, loss / self._substeps)

    def _go_to(self, w: Tensor) -> None:
        self.w, self.point = w, self._landscape(w)
        self.eigenvalues, self._vectors = self._eigenpairs(self.point)

    def _eigenpairs(self, point: Point) -> tuple[Tensor, Tensor]:
        """Eigenpairs down to below the edge.

        Raises:
            UserError: they are too many.
        """
        while True:
            values, vectors = point.eigenpairs(self._count, self._vectors)
            if len(values) < self._count or float(values[-1]) < NEAR * 2 / self._lr:
                return values, vectors
            if self._count > _MOST:
                raise UserError(
                    f"flow: more than {_MOST} eigenvalues are above {NEAR} · 2/η = {NEAR * 2 / self._lr:.4g} "
                    f"(largest {float(values[0]):.4g}); allowed: a smaller --lr"
                )
            self._count, self._vectors = self._count + 2, vectors

    def _pushed(self) -> tuple[Tensor, Tensor, Tensor]:
        """The move of a substep from the oscillations, X, and the eigenvalues of its basis."""
        eta, dt, g = self._lr, 1 / self._substeps, self.point.gradient
        near = self.eigenvalues > NEAR * 2 / eta
        assert self._vectors is not None
        values, U = self.eigenvalues[near], self._vectors[near.to(self._vectors.device)]
        k = len(values)
        if not k:
            return torch.zeros_like(g), torch.zeros(0, 0, dtype=torch.float64), values
        slopes = self.point.third(U).view(k * k, -1)
        A = torch.diag(2 / eta - values) + (dt * eta * (slopes @ g)).view(k, k).double().cpu()
        B = (0.5 * dt * eta * (slopes @ slopes.T)).view(k, k, k, k).double().cpu()
        found = complementary(A, B)
        if found.residual > _RESIDUAL:
            raise UserError(
                f"flow: no oscillation keeps {k} eigenvalues at 2/η = {2 / eta:.4g} (largest "
                f"{float(values[0]):.4g}); allowed: a smaller --lr, more --substeps, or a smooth activation"
            )
        X = found.X.reshape(-1).to(slopes)
        return -0.5 * eta * dt * (X @ slopes), found.X, values


def descended(landscape: Landscape, point: Point, w: Tensor, time: float) -> Tensor:
    """Where dw/dt = −∇L(w) is after ``time``, by one classical Runge–Kutta step from ``point``."""
    slopes = [point.gradient]
    for share in (0.5, 0.5, 1.0):
        slopes.append(landscape(w - share * time * slopes[-1]).gradient)
    first, second, third, fourth = slopes
    return w - time / 6 * (first + 2 * second + 2 * third + fourth)
