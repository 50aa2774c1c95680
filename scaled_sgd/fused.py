"""A whole training step without autograd and without gradients: each W_k takes its update in place.

δ_{k−1} needs W_k as it was, so the order within the backward pass is: δ_{k−1} first, then
W_k ← (1 − ηλ) W_k − η ξ_k (α_k / n) δ_kᵀ h_{k−1} as one accumulating matrix product. Nothing of a
weight's size is ever made. (Theory §2–3; the arrangement is ours.)
"""

from collections.abc import Callable

import torch
from torch import Tensor

from scaled_sgd.losses import Loss
from scaled_sgd.model import HomogeneousMLP
from scaled_sgd.scaling import Rule
from scaled_sgd.signal_norms import square_norm

Scale = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""ξ_k () of layer k = 1..l from F_k (), D_k () and R (), float64."""


def scale_by(rule: Rule, model: HomogeneousMLP) -> Scale:
    """A scaling rule, one layer at a time."""
    layers = model.scaled_layers

    def scale(k: int, F: Tensor, D: Tensor, R: Tensor) -> Tensor:
        return rule(F, D, R, torch.full_like(R, layers[k - 1].layer_weight), len(layers))

    return scale


def scale_frozen(scales: Tensor) -> Scale:
    """Scales (l,) that stay as they are."""
    return lambda k, F, D, R: scales[k - 1]


@torch.no_grad()
def fused_step(
    model: HomogeneousMLP,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss,
    scale: Scale,
    lr: float,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """One step of scaled SGD on the minibatch x (n, m_0), y; the loss before it and ξ (l,), float64.

    The same numbers as :class:`~scaled_sgd.optim.ScaledSGD` without momentum, on one process.
    """
    layers, n = model.scaled_layers, x.shape[0]
    features, slopes = [x], []
    f = x
    for layer in layers:
        z = (features[-1] @ layer.weight.T).mul_(layer.multiplier)
        if layer is layers[-1]:
            f = z
        else:
            slopes.append(model.activation_derivative(z))
            features.append(slopes[-1] * z)
    value = loss.value(f, y).mean()
    delta = loss.gradient(f, y)
    R = _mean_square(delta)
    scales = torch.empty(len(layers), dtype=torch.float64, device=x.device)
    for k in range(len(layers), 0, -1):
        layer, h = layers[k - 1], features[k - 1]
        alpha = layer.multiplier
        xi = scale(k, alpha**2 * _mean_square(h), _mean_square(delta), R)
        scales[k - 1] = xi
        scaled = delta * xi.to(delta.dtype)
        if k > 1:
            delta = (delta @ layer.weight).mul_(alpha).mul_(slopes[k - 2])
        layer.weight.addmm_(scaled.T, h, beta=1 - lr * weight_decay, alpha=-lr * alpha / n)
    return value, scales


def _mean_square(signal: Tensor) -> Tensor:
    return square_norm(signal) / signal.shape[0]
