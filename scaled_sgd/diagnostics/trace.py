"""The trace of the minibatch Hessian: exact in one backward pass per output, or estimated (theory §4)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scaled_sgd.diagnostics.algorithms.hutchinson import hutchinson
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.operators.autograd import GenericCurvature
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.scales import resolve_scales
from scaled_sgd.steps.signals import Signals, backward


@dataclass(frozen=True)
class HessianTrace:
    """tr H, or tr Ξ^{1/2} H Ξ^{1/2}.

    Attributes:
        value: the trace, 0-dimensional.
        layers: the trace of each layer's diagonal block, shape (l,); None from the generic path.
        standard_error: standard error of the estimate; 0 if the value is exact.
    """

    value: Tensor
    layers: Tensor | None
    standard_error: Tensor


@without_autocast
def hessian_trace(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: str,
    scales: str | Tensor | None = None,
    chunk_size: int | None = None,
    probes: int = 32,
    seed: int = 0,
) -> HessianTrace:
    """The trace on the global minibatch.

    For a HomogeneousMLP it is exact: outputs are linear in each single W_k while no activation changes
    sign, so diagonal blocks are Gauss–Newton ones, and with ℓ'' = Σ_c s_c s_cᵀ

        tr H_kk = (α_k²/n) Σ_c Σ_i ‖h_{k−1,i}‖² ‖δ^{(c)}_{k,i}‖²,   δ^{(c)}_l = s_c.  [ours]

    Other networks get Hutchinson's estimate from ``probes`` random signs with its standard error;
    ``probes`` and ``seed`` are used only for the estimate, ``chunk_size`` only for the exact trace.

    Raises:
        UserError: invalid arguments.
    """
    if not is_homogeneous(model):
        operator = GenericCurvature(model, x, y, loss=loss, scales=scales)
        value, error = hutchinson(operator, operator.vectors.gaussian, probes=probes, seed=seed)
        return HessianTrace(value, None, error)
    batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
    return trace_of(batch, resolve_scales(scales, batch))


@torch.no_grad()
def trace_of(batch: Minibatch, xi: Tensor) -> HessianTrace:
    """The exact trace of a minibatch whose signals can be shared with other diagnostics."""
    partition = batch.partition
    layers = torch.zeros(partition.depth, dtype=torch.float64, device=partition.device)
    for signals in batch:
        for c in range(signals.f.shape[1]):
            layers += root_norms(signals, curvature_root(signals, c))
    layers = partition.sum(layers) / batch.total * xi
    return HessianTrace(layers.sum(), layers, torch.zeros_like(layers[0]))


def curvature_root(signals: Signals, c: int) -> Tensor:
    """s_c (samples, m_l) with Σ_c s_c s_cᵀ = ℓ''.

    e_c for the squared error, √p_c (e_c − p) for cross-entropy.
    """
    f = signals.f
    if signals.loss.name == "cross_entropy":
        p = f.softmax(-1)
        root = p.neg()
        root[:, c] += 1
        return root.mul_(p[:, c : c + 1].sqrt())
    root = torch.zeros_like(f)
    root[:, c] = 1
    return root


def root_norms(signals: Signals, root: Tensor) -> Tensor:
    """This process's part of α_k² Σ_i ‖h_{k−1,i}‖² ‖δ_{k,i}‖² with δ_l = root, shape (l,), float64."""
    partition = signals.partition
    delta = partition.own(root, partition.depth)
    norms = []
    for k in range(partition.depth, 0, -1):
        h_squares = signals.h[k - 1].square().sum(1, dtype=torch.float64)
        delta_squares = delta.square().sum(1, dtype=torch.float64)
        norms.append(partition.multiplier(k) ** 2 * (h_squares * delta_squares).sum())
        if k > 1:
            delta = backward(partition, delta, signals.gate[k - 1], k)
    return torch.stack(norms[::-1])
