"""A whole training step without autograd and without gradients: each W_k takes its update in place.

δ_{k−1} needs W_k as it was, so the order within the backward pass is: δ_{k−1} first, then
W_k ← (1 − ηλ) W_k − η ξ_k (α_k / n) δ_kᵀ h_{k−1} as one accumulating matrix product. Nothing of a
weight's size is ever made. (Theory §2–3; the arrangement is ours.)
"""

import torch
from torch import Tensor

from scaled_sgd.losses import Loss
from scaled_sgd.model import HomogeneousMLP
from scaled_sgd.scaling import Rule


@torch.no_grad()
def fused_step(
    model: HomogeneousMLP,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss,
    rule: Rule,
    lr: float,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """One step of scaled SGD on the minibatch x (n, m_0), y; the loss before it and ξ (l,).

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
    for k in reversed(range(len(layers))):
        layer, h = layers[k], features[k]
        alpha = layer.multiplier
        D = _mean_square(delta)
        omega = torch.full_like(R, layer.layer_weight)
        xi = rule(alpha**2 * _mean_square(h), D, R, omega, len(layers))
        scales[k] = xi
        scaled = delta * xi.to(delta.dtype)
        if k > 0:
            delta = (delta @ layer.weight).mul_(alpha).mul_(slopes[k - 1])
        layer.weight.addmm_(scaled.T, h, beta=1 - lr * weight_decay, alpha=-lr * alpha / n)
    return value, scales


def _mean_square(signal: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(signal)
    return norm.double().square() / signal.shape[0]
