"""Exact and cheap diagnostics of one global minibatch: curvature, Taylor terms, ranks (theory §4–7)."""

from scaled_sgd.diagnostics.density import SpectralDensity, spectral_density
from scaled_sgd.diagnostics.features import (
    FeatureRanks,
    feature_ranks,
    gradient_soft_ranks,
    gram,
    hidden_features,
    kernel_alignment,
    kernel_drift,
)
from scaled_sgd.diagnostics.hessian import hessian_vector_product
from scaled_sgd.diagnostics.sharpness import Eigenpairs, sharpness
from scaled_sgd.diagnostics.space import HessianSpace
from scaled_sgd.diagnostics.tangent_kernel import tangent_kernel, top_eigenvalues
from scaled_sgd.diagnostics.taylor import TaylorCoefficients, taylor_coefficients
from scaled_sgd.diagnostics.trace import HessianTrace, hessian_trace
from scaled_sgd.steps.signals import Minibatch

__all__ = [
    "Eigenpairs",
    "FeatureRanks",
    "HessianSpace",
    "HessianTrace",
    "Minibatch",
    "SpectralDensity",
    "TaylorCoefficients",
    "feature_ranks",
    "gradient_soft_ranks",
    "gram",
    "hessian_trace",
    "hessian_vector_product",
    "hidden_features",
    "kernel_alignment",
    "kernel_drift",
    "sharpness",
    "spectral_density",
    "tangent_kernel",
    "taylor_coefficients",
    "top_eigenvalues",
]
