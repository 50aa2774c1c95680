"""Trains wide networks beyond the edge of stability, with exact diagnostics of what happens there."""

from typing import TYPE_CHECKING

from scaled_sgd.core.lazy import attach
from scaled_sgd.core.storage import STORAGE

if TYPE_CHECKING:
    from scaled_sgd.core.network import HomogeneousMLP, ScaledLinear
    from scaled_sgd.core.parameterization import width_pattern
    from scaled_sgd.diagnostics import (
        Eigenpairs,
        FeatureRanks,
        TaylorCoefficients,
        feature_ranks,
        gradient_soft_ranks,
        hessian_vector_product,
        sharpness,
        taylor_coefficients,
    )
    from scaled_sgd.runs.trained import Predictions, TrainedRun, load_run
    from scaled_sgd.steps.hook import DepthwiseScaling
    from scaled_sgd.steps.optimizer import ScaledSGD

__version__ = "0.1.0"

__all__ = [
    "DepthwiseScaling",
    "Eigenpairs",
    "FeatureRanks",
    "HomogeneousMLP",
    "Predictions",
    "ScaledLinear",
    "ScaledSGD",
    "TaylorCoefficients",
    "TrainedRun",
    "__version__",
    "feature_ranks",
    "gradient_soft_ranks",
    "hessian_vector_product",
    "load_run",
    "sharpness",
    "taylor_coefficients",
    "width_pattern",
]

_HOMES = {
    "DepthwiseScaling": "steps.hook",
    "HomogeneousMLP": "core.network",
    "Predictions": "runs.trained",
    "ScaledLinear": "core.network",
    "ScaledSGD": "steps.optimizer",
    "TrainedRun": "runs.trained",
    "load_run": "runs.trained",
    "width_pattern": "core.parameterization",
}
__getattr__, __dir__ = attach(
    __name__, {name: _HOMES.get(name, "diagnostics") for name in __all__ if name != "__version__"}
)

STORAGE.update(
    save_pretrained="scaled_sgd.runs.hub:save_pretrained",
    push_to_hub="scaled_sgd.runs.hub:push_to_hub",
    from_pretrained="scaled_sgd.runs.pretrained:from_pretrained",
)
