"""Decoded rows before they become tensors: splits off held-out rows, standardises, scales."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class Examples:
    """Input rows (N, m_0), not yet normalised, and class ids (N,) or targets (N, d) in full precision."""

    x: Array
    y: Array

    def take(self, rows: Array) -> "Examples":
        """The rows with these indices, in this order."""
        return Examples(self.x[rows], self.y[rows])


def hold_out(
    examples: Examples, fraction: float, generator: np.random.Generator
) -> tuple[Examples, Examples]:
    """Random training and held-out rows; at least one of each if there are two rows."""
    n = len(examples.x)
    held_out = min(max(1, round(n * fraction)), n - 1)
    order = generator.permutation(n)
    return examples.take(np.sort(order[held_out:])), examples.take(np.sort(order[:held_out]))


@dataclass(frozen=True)
class Standardization:
    """Gives every feature zero mean and unit variance over the training rows; constant features become 0.

    Attributes:
        means: (m_0,), float64.
        deviations: likewise; 0 for a constant.
    """

    means: Array
    deviations: Array

    @classmethod
    def of(cls, x: Array) -> "Standardization":
        """That of training inputs (N, m_0)."""
        # Constants are detected by their range: rounding gives 0.1, 0.1, ... a deviation of 1e-17.
        varies = x.max(axis=0) > x.min(axis=0)
        return cls(x.mean(axis=0, dtype=np.float64), np.where(varies, x.std(axis=0, dtype=np.float64), 0.0))

    def apply(self, x: Array) -> Array:
        """Inputs (n, m_0), standardised."""
        varies = self.deviations > 0
        factors: Array = varies / np.where(varies, self.deviations, 1)
        return (x - self.means) * factors


def lost_constants(train: Examples) -> list[int]:
    """Features that :class:`Standardization` turns from a constant other than 0 into 0."""
    return [int(i) for i in np.flatnonzero((train.x == train.x[:1]).all(axis=0) & (train.x[0] != 0))]


def to_tensors(examples: Examples) -> tuple[Tensor, Tensor]:
    """Inputs as :func:`unit_rows`, and their targets."""
    y = examples.y if examples.y.ndim == 1 else examples.y.astype(np.float32)
    return unit_rows(examples.x), torch.from_numpy(y)


def unit_rows(inputs: Array) -> Tensor:
    """Rows scaled to ‖x‖ = √m_0 in float32; a row of zeros stays zero."""
    # Entries are divided by the largest one before squaring, so that none leaves the range of float32.
    # The norm is then at least 1, except for a row of zeros.
    peak = np.abs(inputs).max(axis=1, keepdims=True)
    x = torch.from_numpy(np.asarray(inputs / np.where(peak > 0, peak, 1), dtype=np.float32))
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x.mul_(x.shape[1] ** 0.5 / norm.clamp_min(1))


def collapsed(targets: Array) -> tuple[int, int] | None:
    """Number of different targets, and of those that still differ in float32; None if most do."""
    rounded = targets.astype(np.float32)
    if (rounded == targets).all():
        return None
    before, after = len(np.unique(targets)), len(np.unique(rounded))
    return (before, after) if 2 * after <= before else None
