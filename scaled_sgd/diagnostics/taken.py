"""The step that a run is about to take, for diagnostics (theory §3b)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from scaled_sgd.diagnostics.directions import Updates, fit_direction, update_rows
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch


@dataclass(frozen=True)
class StepTaken:
    """W_k ← W_k − η v_k with v_k = μ v_k + c U_k + λ_w W_k.

    Attributes:
        direction: the direction K of U.
        lr: η.
        factor: c, the factor on U from clipping or normalising.
        momentum: μ.
        weight_decay: λ_w.
        velocity: gives this process's rows of v_k before the step, (width(k), m_{k−1}), or None if zero;
            needed if μ > 0. Called once per layer, by all processes.
        known: False if the optimizer takes another step than this one.
    """

    direction: Direction
    lr: float
    factor: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    velocity: Callable[[int], Tensor | None] | None = None
    known: bool = True

    @property
    def is_along_direction(self) -> bool:
        """Whether v = c U."""
        return self.momentum == 0 and self.weight_decay == 0

    @property
    def rate(self) -> float:
        """The step size along the direction of the Taylor terms: ηc along U, else η along v."""
        return self.lr * self.factor if self.is_along_direction else self.lr

    def along(self, batch: Minibatch) -> Direction | Updates:
        """The direction of the Taylor terms: U if v = c U, else −α_k v_k in rows, one layer at a time."""
        direction = fit_direction(self.direction, batch)
        if self.is_along_direction:
            return direction
        partition = batch.partition
        scaled = replace(direction, numbers=direction.numbers * self.factor)
        rows = update_rows(batch, scaled)

        def update(k: int) -> Tensor:
            alpha, u = partition.multiplier(k), rows(k)
            before = self.velocity(k) if self.momentum and self.velocity is not None else None
            if before is not None:
                u = u.add(before.to(u.dtype), alpha=-alpha * self.momentum)
            return u.add(partition.local(k), alpha=-alpha * self.weight_decay) if self.weight_decay else u

        if not batch.chunked:
            return update
        held = {k: update(k) for k in range(1, partition.depth + 1)}
        return held.__getitem__

    def edge_ratio(self, sharpness: float) -> float:
        """η(cλ + λ_w) / (2(1 + μ)): 1 at the stability limit of heavy ball on a fixed quadratic.

        For a scalar rule with preconditioned sharpness λ.
        """
        return self.lr * (self.factor * sharpness + self.weight_decay) / (2 * (1 + self.momentum))

    @property
    def edge(self) -> float | None:
        """The λ whose edge ratio is 1, (2(1 + μ)/η − λ_w)/c; None for η = 0."""
        if self.lr * self.factor == 0:
            return None
        return (2 * (1 + self.momentum) / self.lr - self.weight_decay) / self.factor
