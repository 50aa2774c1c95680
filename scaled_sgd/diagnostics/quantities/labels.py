"""How features go with the labels on the probe: neural collapse and alignment; their smallest eigenvalue."""

import math
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.diagnostics.features import kernel_alignment
from scaled_sgd.diagnostics.kernels import traced_kernel
from scaled_sgd.diagnostics.labels import (
    classes_of,
    feature_alignment,
    label_matrix,
    log_lambda_min,
    neural_collapse,
)
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.quantities.state import Stateless
from scaled_sgd.steps.minibatch import Minibatch

_LAST = slice(-1, None)


class NeuralCollapse(Stateless):
    """tr(Σ_W Σ_B⁺)/C of the last features."""

    def measure(self, context: Context) -> dict[str, Any]:
        """``neural_collapse``."""
        probe = context.probe
        classes = classes_of(probe.y)
        if classes is None:
            context.say("neural_collapse: null, for the targets are not classes")
            return {"neural_collapse": None}
        return {"neural_collapse": _defined(neural_collapse(hidden(probe, _LAST)[0], classes))}


class LabelAlignment(Stateless):
    """Centred alignment with Y Yᵀ of the tangent kernel, summed over outputs, and of the last features."""

    def measure(self, context: Context) -> dict[str, Any]:
        """``label_alignment``."""
        probe = context.probe
        Y = label_matrix(probe.y, probe.partition.widths[-1])
        found: dict[str, float | None] = {"kernel": None}
        found["features"] = _defined(feature_alignment(hidden(probe, _LAST)[0], Y))
        if probe.chunked:
            context.say("label_alignment.kernel: null, for the probe is larger than diagnostics.chunk")
        else:
            s, ones = probe.first, torch.ones_like(probe.partition.alpha)
            theta = traced_kernel(probe.partition, s.h, s.gate, ones)
            found["kernel"] = _defined(kernel_alignment(theta.double(), Y @ Y.T, centred=True))
        return {"label_alignment": found}


class FeatureKernels(Stateless):
    """ln λ_min of h_k h_kᵀ/m_k of every hidden layer."""

    def measure(self, context: Context) -> dict[str, Any]:
        """``log_lambda_min``."""
        found = [_defined(log_lambda_min(H)) for H in hidden(context.probe, slice(1, None))]
        if None in found:
            context.say(
                "log_lambda_min: null where the probe's features are dependent, such as more samples than "
                "features"
            )
        return {"log_lambda_min": found}


def _defined(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def hidden(probe: Minibatch, layers: slice = slice(None)) -> list[Tensor]:
    """Those ``layers`` of h_0..h_{l−1}, each (n, m_k), of all samples; the last are the features of f."""
    if not probe.chunked:
        return probe.first.h[layers]
    return [torch.cat(h) for h in zip(*(signals.h[layers] for signals in probe), strict=True)]
