"""Learning-rate schedules."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass
class Schedule:
    """Linear warm-up to ``peak``, then constant, or down to 0 after ``steps`` linearly or as a half cosine.

    Args:
        kind: shape after warm-up.
        peak: η; a run whose rate is relative to its sharpness sets it before step 0.
        steps: length of the run.
        warmup_steps: step s < warmup_steps runs at peak·(s + 1) / (warmup_steps + 1).
    """

    kind: Literal["constant", "linear", "cosine"]
    peak: float
    steps: int
    warmup_steps: int = 0

    def __call__(self, step: int) -> float:
        """η at step 0, 1, …"""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        if self.kind == "constant":
            return self.peak
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        if self.kind == "linear":
            return self.peak * (1 - progress)
        return self.peak * 0.5 * (1 + math.cos(math.pi * progress))


class EdgeSchedule:
    """η that keeps the directional edge ratio ρ = η c2/|c1| of the steps near a target (arXiv 2407.06183).

    Every few steps c1 and c2 of the loss along the coming step give η* = ρ |c1|/c2, which is defined where
    c1 < 0 < c2; elsewhere the rate stays. The rate becomes √(η η*), at most twice what it was: one minibatch
    is noise, and at the start curvature may be almost 0. Theory §3b; the mean and the bound are ours.

    Args:
        start: η before the first update.
        ratio: the target ρ.
        every: steps between updates.
        warmup_steps: as for :class:`Schedule`.
    """

    def __init__(self, start: float, *, ratio: float, every: int, warmup_steps: int = 0) -> None:
        self.peak = start
        self._ratio, self._every = ratio, every
        self._warmup = Schedule("constant", 1.0, 1, warmup_steps)

    @property
    def peak(self) -> float:
        """η before the first update; setting it starts anew."""
        return self._peak

    @peak.setter
    def peak(self, rate: float) -> None:
        self._peak = self.rate = rate

    def __call__(self, step: int) -> float:
        """η at ``step``, as of the last update."""
        return self.rate * self._warmup(step)

    def due(self, step: int) -> bool:
        """Whether ``step`` begins with an update."""
        return step % self._every == 0

    def see(self, slope: float, curvature: float) -> None:
        """Update η by c1 and c2 of L(θ − ηv) = c0 + c1 η + c2 η² + …"""
        if slope < 0 < curvature and math.isfinite(slope) and math.isfinite(curvature):
            aim = self._ratio * -slope / curvature
            self.rate = min(math.sqrt(self.rate * aim), 2 * self.rate)
