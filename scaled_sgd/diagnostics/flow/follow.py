"""Gradient descent, gradient flow and central flow side by side from the same weights."""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.flow.central import CentralFlow, descended
from scaled_sgd.diagnostics.flow.landscape import Landscape

_STIFFEST = 200
"""Most substeps of gradient flow per step."""


class GradientDescent:
    """w ← w − η∇L(w)."""

    def __init__(self, landscape: Landscape, w: Tensor, lr: float, *, count: int) -> None:
        self._landscape, self._lr, self._count = landscape, lr, count
        self._vectors: Tensor | None = None
        self.w, self.point = w, landscape(w)

    def measured(self) -> tuple[float, list[float]]:
        """The loss and the largest eigenvalues of H; not finite once it has diverged."""
        loss = self.point.loss
        if not math.isfinite(loss):
            return loss, []
        values, self._vectors = self.point.eigenpairs(self._count, self._vectors)
        return loss, values.tolist()

    def advance(self) -> None:
        """One step."""
        self.w = self.w - self._lr * self.point.gradient
        self.point = self._landscape(self.w)


class GradientFlow(GradientDescent):
    """dw/dt = −η∇L(w) by the classical Runge–Kutta rule, ηλ/substeps ≤ 1; a time unit is a step.

    The largest eigenvalue λ is that of the last :meth:`measured`.
    """

    def __init__(self, landscape: Landscape, w: Tensor, lr: float, *, count: int, substeps: int) -> None:
        super().__init__(landscape, w, lr, count=count)
        self._least = self._substeps = substeps

    def measured(self) -> tuple[float, list[float]]:
        """The loss and the largest eigenvalues of H.

        Raises:
            UserError: the flow is too stiff.
        """
        loss, values = super().measured()
        self._substeps = max(self._least, math.ceil(self._lr * max([*values, 0.0])))
        if self._substeps > _STIFFEST:
            raise UserError(
                f"flow: gradient flow needs {self._substeps} substeps a step, for η λ is "
                f"{self._lr * values[0]:.4g}; allowed: up to {_STIFFEST}, with a smaller --lr or --length"
            )
        return loss, values

    def advance(self) -> None:
        """One step."""
        for _ in range(self._substeps):
            self.w = descended(self._landscape, self.point, self.w, self._lr / self._substeps)
            self.point = self._landscape(self.w)


def follow(
    landscapes: tuple[Landscape, Landscape, Landscape],
    w: Tensor,
    *,
    lr: float,
    length: int,
    count: int = 3,
    substeps: int = 4,
) -> Iterator[dict[str, Any]]:
    """One row a step from 0 to ``length``: losses and eigenvalues of the three.

    Args:
        landscapes: of the same loss, one for each of the three, since a point is valid until the next.
        w: weights, (N,).
        lr: η.
        length: number of steps.
        count: number of eigenvalues.
        substeps: least number per step of both flows.

    Raises:
        UserError: a flow cannot be followed.
    """
    descent = GradientDescent(landscapes[0], w, lr, count=count)
    flow = GradientFlow(landscapes[1], w, lr, count=count, substeps=substeps)
    central = CentralFlow(landscapes[2], w, lr, count=count, substeps=substeps)
    for step in range(length + 1):
        row: dict[str, Any] = {"step": step}
        for name, path in (("descent", descent), ("gradient_flow", flow)):
            loss, values = path.measured()
            finite = math.isfinite(loss)
            row[name] = {"loss": loss if finite else None, "eigenvalues": values}
        apart = {"gradient_flow": flow.w, "central_flow": central.w}
        lengths = {name: float((descent.w - w).norm()) for name, w in apart.items()}
        row["distance"] = {name: d if math.isfinite(d) else None for name, d in lengths.items()}
        row["central_flow"] = {
            "loss": central.point.loss,
            "eigenvalues": central.eigenvalues[:count].tolist(),
        }
        if step < length:
            averaged = central.advance()
            row["central_flow"] |= {"oscillation": averaged.oscillation, "descent_loss": averaged.loss}
            flow.advance()
            if row["descent"]["loss"] is not None:
                descent.advance()
        yield row
