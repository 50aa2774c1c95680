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
