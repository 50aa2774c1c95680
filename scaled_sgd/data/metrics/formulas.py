"""The built-in metrics as functions of arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def accuracy(predictions: NDArray[Any], references: NDArray[Any]) -> float:
    """Fraction of the class ids (N,) that agree."""
    return float(np.mean(predictions == references))


def mean_squared_error(predictions: NDArray[Any], references: NDArray[Any]) -> float:
    """Mean over samples and target entries of (f - y)², both (N, d).

    The training loss mse is ½‖f - y‖², a mean over samples and a sum over entries: d/2 times this metric.
    """
    return float(np.mean((np.asarray(predictions, np.float64) - np.asarray(references, np.float64)) ** 2))


def r2(predictions: NDArray[Any], references: NDArray[Any]) -> float:
    """1 − Σ(f − y)² / Σ(y − ȳ)² over samples, a mean over target entries; both (N, d).

    NaN for constant targets, else ``sklearn.metrics.r2_score``.
    """
    f, y = (np.asarray(t, np.float64).reshape(len(t), -1) for t in (predictions, references))
    with np.errstate(divide="ignore", invalid="ignore"):
        left = ((f - y) ** 2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    return float(np.mean(1 - np.where(np.isfinite(left), left, np.nan)))
