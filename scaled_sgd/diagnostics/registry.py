"""The quantities that a run can measure, by name: the one place to add a diagnostic.

Importing it imports neither torch nor the classes that measure.
"""

from scaled_sgd.core.registry import Registry
from scaled_sgd.diagnostics.columns import Column, Figure
from scaled_sgd.diagnostics.entries import curvature, edges, features, labels, step
from scaled_sgd.diagnostics.measured import Measured

__all__ = ["QUANTITIES", "Column", "Figure", "Measured"]

QUANTITIES: Registry[Measured] = Registry("diagnostics.quantities")
"""In the order of measurement. A quantity is on if the section's key of its name is true or
``diagnostics.quantities`` lists it."""

QUANTITIES.add("taylor", step.TAYLOR)
QUANTITIES.add("sharpness", curvature.SHARPNESS)
QUANTITIES.add("ranks", features.RANKS)
QUANTITIES.add("change", features.CHANGE)
QUANTITIES.add("batch_sharpness", curvature.BATCH_SHARPNESS)
QUANTITIES.add("gradient_noise", curvature.GRADIENT_NOISE)
QUANTITIES.add("batch_spectrum", curvature.BATCH_SPECTRUM)
QUANTITIES.add("noise_stability", curvature.NOISE_STABILITY)
QUANTITIES.add("gauss_newton", curvature.GAUSS_NEWTON)
QUANTITIES.add("blocks", curvature.BLOCKS)
QUANTITIES.add("subspace", step.SUBSPACE)
QUANTITIES.add("knowledge", features.KNOWLEDGE)
QUANTITIES.add("third_order", edges.THIRD_ORDER)
QUANTITIES.add("critical_rate", edges.CRITICAL_RATE)
QUANTITIES.add("adam_sharpness", edges.ADAM_SHARPNESS)
QUANTITIES.add("generalized_sharpness", edges.GENERALIZED_SHARPNESS)
QUANTITIES.add("central_flow", edges.CENTRAL_FLOW)
QUANTITIES.add("neural_collapse", labels.NEURAL_COLLAPSE)
QUANTITIES.add("label_alignment", labels.LABEL_ALIGNMENT)
QUANTITIES.add("feature_kernels", labels.FEATURE_KERNELS)
QUANTITIES.add("from_start", labels.FROM_START)
