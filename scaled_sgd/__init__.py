"""Training wide networks beyond the edge of stability, and seeing exactly what happens there."""

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
from scaled_sgd.model import HomogeneousMLP, ScaledLinear
from scaled_sgd.optim import ScaledSGD
from scaled_sgd.parameterization import width_pattern
from scaled_sgd.scaling import DepthwiseScaling

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
