"""The step that a run is about to take, for diagnostics (theory §3b)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from scaled_sgd.diagnostics.directions import Updates, fit_direction, update_rows
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch


@dataclass(frozen=True)
class AdamState:
    """What AdamW holds before a step: m ← β1 m + (1 − β1) g, ν ← β2 ν + (1 − β2) g².

    W ← (1 − ηλ_w) W − η m / P, P = (1 − β1^t)(√(ν/(1 − β2^t)) + ε) at step t from 1 (arXiv 2207.14484).

    Attributes:
        betas: (β1, β2).
        epsilon: ε.
        steps: number of steps taken.
        squares: gives this process's rows of ν, (width(k), m_{k−1}), or None before the first step. Called
            once per layer, by all processes.
    """

    betas: tuple[float, float]
    epsilon: float
    steps: int
    squares: Callable[[int], Tensor | None]

    def denominator(self, k: int, gradient: Tensor) -> Tensor:
        """P of the coming step with this gradient of layer k, as it reaches the optimizer: in rows."""
        (beta1, beta2), t = self.betas, self.steps + 1
        squares = gradient.square().mul_(1 - beta2)
        before = self.squares(k)
        if before is not None:
            squares.add_(before.to(squares.dtype), alpha=beta2)
        return squares.div_(1 - beta2**t).sqrt_().add_(self.epsilon).mul_(1 - beta1**t)

    def edge(self, lr: float, weight_decay: float) -> float | None:
        """The λ of P^{−1/2} H P^{−1/2} where steps at rate η on a fixed quadratic become unstable.

        (1 + β1)(2 − ηλ_w)/((1 − β1)η): with frozen P the step is heavy ball of a decaying average, whose
        characteristic polynomial z² − (1 − ηλ_w + β1 − η(1 − β1)λ) z + β1(1 − ηλ_w) has the root −1 there.
        38/η at β1 = 0.9 without weight decay. None for η = 0.
        """
        beta1 = self.betas[0]
        return (1 + beta1) * (2 - lr * weight_decay) / ((1 - beta1) * lr) if lr else None


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
        polar: whether U_k are polar factors of G_k, up to ω_k/l.
        adam: the state of AdamW if that is the optimizer, which then divides c U by √ν.
    """

    direction: Direction
    lr: float
    factor: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    velocity: Callable[[int], Tensor | None] | None = None
    known: bool = True
    polar: bool = False
    adam: AdamState | None = None

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
