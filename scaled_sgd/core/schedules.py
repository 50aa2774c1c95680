"""Learning-rate schedules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Factors = Sequence[tuple[int, float]]


@dataclass
class Schedule:
    """Linear warm-up to ``peak``, then constant, or down to 0 after ``steps`` linearly or as a half cosine.

    Args:
        kind: shape after warm-up.
        peak: η; a run whose rate is relative to its sharpness sets it before step 0.
        steps: length of the run.
        warmup_steps: step s < warmup_steps runs at peak·(s + 1) / (warmup_steps + 1).
        factors: (s, c): from step s on the rate is c times that of the shape; steps ascend.
    """

    kind: Literal["constant", "linear", "cosine"]
    peak: float
    steps: int
    warmup_steps: int = 0
    factors: Factors = ()

    def __call__(self, step: int) -> float:
        """η at step 0, 1, …"""
        return next((c for start, c in reversed(self.factors) if start <= step), 1.0) * self._shape(step)

    def _shape(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        if self.kind == "constant":
            return self.peak
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        if self.kind == "linear":
            return self.peak * (1 - progress)
        return self.peak * 0.5 * (1 + math.cos(math.pi * progress))


class MeasuredSchedule:
    """η that follows what is measured every few steps; between measurements it stays.

    Args:
        start: η before the first measurement.
        every: steps between measurements.
        warmup_steps: as for :class:`Schedule`.
    """

    def __init__(self, start: float, *, every: int, warmup_steps: int = 0) -> None:
        self.peak = start
        self._every = every
        self._warmup = Schedule("constant", 1.0, 1, warmup_steps)

    @property
    def peak(self) -> float:
        """η before the first measurement; setting it starts anew."""
        return self._peak

    @peak.setter
    def peak(self, rate: float) -> None:
        self._peak = self.rate = rate

    def __call__(self, step: int) -> float:
        """η at ``step``, as of the last measurement."""
        return self.rate * self._warmup(step)

    def due(self, step: int) -> bool:
        """Whether ``step`` begins with a measurement."""
        return step % self._every == 0

    def state(self) -> float | list[float | None]:
        """What a resumed run needs, as JSON values."""
        return self.rate

    def load(self, state: Any) -> None:
        """Restore :meth:`state`, that of another schedule as far as it fits."""
        self.rate = state[0] if isinstance(state, list) else state


class EdgeSchedule(MeasuredSchedule):
    """η that keeps the directional edge ratio ρ = η c2/|c1| of the steps near a target (arXiv 2407.06183).

    c1 and c2 of the loss along the coming step give η* = ρ |c1|/c2, which is defined where c1 < 0 < c2;
    elsewhere the rate stays. The rate becomes √(η η*), at most twice what it was: one minibatch is noise,
    and at the start curvature may be almost 0. Theory §3b; the mean and the bound are ours.

    Args:
        start: η before the first update.
        ratio: the target ρ.
        every: steps between updates.
        warmup_steps: as for :class:`Schedule`.
    """

    def __init__(self, start: float, *, ratio: float, every: int, warmup_steps: int = 0) -> None:
        super().__init__(start, every=every, warmup_steps=warmup_steps)
        self._ratio = ratio

    def see(self, slope: float, curvature: float) -> None:
        """Update η by c1 and c2 of L(θ − ηv) = c0 + c1 η + c2 η² + …"""
        if slope < 0 < curvature and math.isfinite(slope) and math.isfinite(curvature):
            aim = self._ratio * -slope / curvature
            self.rate = min(math.sqrt(self.rate * aim), 2 * self.rate)


class DriftSchedule(MeasuredSchedule):
    """η = 2/‖H ĝ‖^p with ĝ = g/‖g‖ (arXiv 2302.01952, DAL-p), at most twice what it was (ours).

    2/‖H ĝ‖ is at least the edge 2/λ; what its denominator measures is the drift that separates gradient
    descent from its flow, (η/2) H g.

    Args:
        start: η before the first update.
        power: p.
        every: steps between updates.
        warmup_steps: as for :class:`Schedule`.
    """

    def __init__(self, start: float, *, power: float, every: int, warmup_steps: int = 0) -> None:
        super().__init__(start, every=every, warmup_steps=warmup_steps)
        self._power = power

    def see(self, drift: float) -> None:
        """Update η by ‖H ĝ‖; where that is 0 or not finite the rate stays."""
        if 0 < drift < math.inf:
            self.rate = min(2 / drift**self._power, 2 * self.rate)


class AdasSchedule(MeasuredSchedule):
    """η ← β η + ζ ΔG, G the mean knowledge gain of all layers, ΔG its change (arXiv 2006.06587, AdaS).

    The paper keeps one η for each layer and updates once an epoch; here one η for all layers, so that
    ξ_k alone says how layers differ (ours). The first measurement changes nothing; η stays at least 0.

    Args:
        start: η before the first update.
        decay: β.
        growth: ζ.
        every: steps between updates.
        warmup_steps: as for :class:`Schedule`.
    """

    def __init__(
        self, start: float, *, decay: float, growth: float, every: int, warmup_steps: int = 0
    ) -> None:
        super().__init__(start, every=every, warmup_steps=warmup_steps)
        self._decay, self._growth = decay, growth
        self.gain: float | None = None

    def state(self) -> float | list[float | None]:
        """η and the last gain."""
        return [self.rate, self.gain]

    def load(self, state: Any) -> None:
        """Restore :meth:`state`, that of another schedule as far as it fits."""
        super().load(state)
        self.gain = state[1] if isinstance(state, list) else None

    def see(self, gain: float) -> None:
        """Update η by the mean knowledge gain; where that is not finite the rate stays."""
        if not math.isfinite(gain):
            return
        if self.gain is not None:
            self.rate = max(self._decay * self.rate + self._growth * (gain - self.gain), 0.0)
        self.gain = gain
