"""Training wide networks beyond the edge of stability, and seeing exactly what happens there."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    from scaled_sgd.steps.hook import DepthwiseScaling
    from scaled_sgd.steps.optimizer import ScaledSGD

__version__ = "0.1.0"

__all__ = [
    "DepthwiseScaling",
    "Eigenpairs",
    "FeatureRanks",
    "HomogeneousMLP",
    "ScaledLinear",
    "ScaledSGD",
    "TaylorCoefficients",
    "__version__",
    "feature_ranks",
    "gradient_soft_ranks",
    "hessian_vector_product",
    "sharpness",
    "taylor_coefficients",
    "width_pattern",
]

_HOMES = {
    "DepthwiseScaling": "steps.hook",
    "HomogeneousMLP": "core.network",
    "ScaledLinear": "core.network",
    "ScaledSGD": "steps.optimizer",
    "width_pattern": "core.parameterization",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: a command that only prints imports no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"scaled_sgd.{_HOMES.get(name, 'diagnostics')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
