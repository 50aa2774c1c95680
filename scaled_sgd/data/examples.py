"""Decoded rows before they become tensors, and which of them are held out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Examples:
    """Input rows (N, d), not yet normalised, and class ids (N,) or targets (N, t) in full precision."""

    x: Array
    y: Array

    def take(self, rows: Array) -> "Examples":
        """The rows with these indices, in this order."""
        return Examples(self.x[rows], self.y[rows])


def hold_out(n: int, fraction: float, generator: np.random.Generator) -> tuple[Array, Array]:
    """Indices of training and of held-out rows among n; at least one of each if there are two."""
    held_out = min(max(1, round(n * fraction)), n - 1)
    order = generator.permutation(n)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def collapsed(targets: Array) -> tuple[int, int] | None:
    """Number of different targets, and of those that still differ in float32; None if most do."""
    rounded = targets.astype(np.float32)
    if (rounded == targets).all():
        return None
    before, after = len(np.unique(targets)), len(np.unique(rounded))
    return (before, after) if 2 * after <= before else None
