"""Exact and cheap diagnostics of one global minibatch: curvature, Taylor terms, ranks (theory §4–7)."""

from typing import TYPE_CHECKING

from scaled_sgd.core.lazy import attach

if TYPE_CHECKING:
    from scaled_sgd.diagnostics.blocks import block_sharpness
    from scaled_sgd.diagnostics.critical import CriticalRates, critical_rate
    from scaled_sgd.diagnostics.density import SpectralDensity, spectral_density
    from scaled_sgd.diagnostics.eigenpairs import Eigenpairs, sharpness
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
    from scaled_sgd.diagnostics.kernels import tangent_kernel, top_eigenvalues
    from scaled_sgd.diagnostics.line import loss_along
    from scaled_sgd.diagnostics.noise import noise_stability
    from scaled_sgd.diagnostics.operators.curvature import HessianSpace
    from scaled_sgd.diagnostics.sharpening import ThirdOrderTerms, third_order
    from scaled_sgd.diagnostics.taylor import TaylorCoefficients, taylor_coefficients
    from scaled_sgd.diagnostics.trace import HessianTrace, hessian_trace
    from scaled_sgd.steps.minibatch import Minibatch

__all__ = [
    "CriticalRates",
    "Eigenpairs",
    "FeatureRanks",
    "HessianSpace",
    "HessianTrace",
    "Minibatch",
    "SpectralDensity",
    "TaylorCoefficients",
    "ThirdOrderTerms",
    "block_sharpness",
    "critical_rate",
    "feature_ranks",
    "gradient_soft_ranks",
    "gram",
    "hessian_trace",
    "hessian_vector_product",
    "hidden_features",
    "kernel_alignment",
    "kernel_drift",
    "loss_along",
    "noise_stability",
    "sharpness",
    "spectral_density",
    "tangent_kernel",
    "taylor_coefficients",
    "third_order",
    "top_eigenvalues",
]

_HOMES = {
    "CriticalRates": "diagnostics.critical",
    "Eigenpairs": "diagnostics.eigenpairs",
    "HessianSpace": "diagnostics.operators.curvature",
    "HessianTrace": "diagnostics.trace",
    "Minibatch": "steps.minibatch",
    "SpectralDensity": "diagnostics.density",
    "TaylorCoefficients": "diagnostics.taylor",
    "ThirdOrderTerms": "diagnostics.sharpening",
    "block_sharpness": "diagnostics.blocks",
    "critical_rate": "diagnostics.critical",
    "hessian_trace": "diagnostics.trace",
    "hessian_vector_product": "diagnostics.hessian",
    "loss_along": "diagnostics.line",
    "noise_stability": "diagnostics.noise",
    "sharpness": "diagnostics.eigenpairs",
    "spectral_density": "diagnostics.density",
    "tangent_kernel": "diagnostics.kernels",
    "taylor_coefficients": "diagnostics.taylor",
    "third_order": "diagnostics.sharpening",
    "top_eigenvalues": "diagnostics.kernels",
}
__getattr__, __dir__ = attach(__name__, {name: _HOMES.get(name, "diagnostics.features") for name in __all__})
