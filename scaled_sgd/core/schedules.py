"""Learning-rate schedules."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to ``peak``, then constant, or down to 0 after ``steps`` linearly or as a half cosine.

    Args:
        kind: shape after warm-up.
        peak: η.
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
