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


def standardize(train: Examples, evaluation: Examples) -> tuple[Examples, Examples]:
    """Zero mean and unit variance of every feature by the training rows; constant features become 0."""
    mean = train.x.mean(axis=0, dtype=np.float64)
    # Constants are detected by their range: rounding gives 0.1, 0.1, ... a deviation of 1e-17.
    varies = train.x.max(axis=0) > train.x.min(axis=0)
    deviation = np.where(varies, train.x.std(axis=0, dtype=np.float64), 1)
    train_x, evaluation_x = ((part.x - mean) * (varies / deviation) for part in (train, evaluation))
    return Examples(train_x, train.y), Examples(evaluation_x, evaluation.y)


def lost_constants(train: Examples) -> list[int]:
    """Features that :func:`standardize` turns from a constant other than 0 into 0."""
    return [int(i) for i in np.flatnonzero((train.x == train.x[:1]).all(axis=0) & (train.x[0] != 0))]


def to_tensors(examples: Examples) -> tuple[Tensor, Tensor]:
    """Rows scaled to ‖x‖ = √m_0 in float32, and their targets; a row of zeros stays zero."""
    # Entries are divided by the largest one before squaring, so that none leaves the range of float32.
    # The norm is then at least 1, except for a row of zeros.
    peak = np.abs(examples.x).max(axis=1, keepdims=True)
    x = torch.from_numpy(np.asarray(examples.x / np.where(peak > 0, peak, 1), dtype=np.float32))
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    y = examples.y if examples.y.ndim == 1 else examples.y.astype(np.float32)
    return x.mul_(x.shape[1] ** 0.5 / norm.clamp_min(1)), torch.from_numpy(y)


def collapsed(targets: Array) -> tuple[int, int] | None:
    """Number of different targets, and of those that still differ in float32; None if most do."""
    rounded = targets.astype(np.float32)
    if (rounded == targets).all():
        return None
    before, after = len(np.unique(targets)), len(np.unique(rounded))
    return (before, after) if 2 * after <= before else None
