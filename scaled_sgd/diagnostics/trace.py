"""The trace of the minibatch Hessian: exact in one backward pass per output, or estimated (theory §4, §8)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scaled_sgd.core.numbers import check_integer
from scaled_sgd.diagnostics.algorithms.hutchinson import hutchinson
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.operators.autograd import GenericCurvature
from scaled_sgd.diagnostics.operators.r_operator import Part, check_part
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.scales import resolve_scales
from scaled_sgd.steps.signals import Signals, backward


@dataclass(frozen=True)
class HessianTrace:
    """tr C, or tr Ξ^{1/2} C Ξ^{1/2}, with C = H, G or H − G.

    Attributes:
        value: the trace, 0-dimensional.
        layers: the trace of each layer's diagonal block, shape (l,); None from the generic path.
        standard_error: standard error of what is estimated; 0 if the value is exact.
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
    part: Part = "hessian",
    chunk_size: int | None = None,
    probes: int = 32,
    seed: int = 0,
) -> HessianTrace:
    """The trace on the global minibatch, of H, of its Gauss–Newton part G or, ``feature``, of H − G.

    For a HomogeneousMLP with φ(s) = a·s + b·|s| it is exact: outputs are linear in each single W_k while no
    activation changes sign, so diagonal blocks are Gauss–Newton ones, and with ℓ'' = Σ_c s_c s_cᵀ

        tr H_kk = (α_k²/n) Σ_c Σ_i ‖h_{k−1,i}‖² ‖δ^{(c)}_{k,i}‖²,   δ^{(c)}_l = s_c.  [ours]

    A smooth φ adds tr(H − G), from :func:`feature_norms`, for which layers of up to ``probes`` outputs take
    one forward pass for each, and wider ones an estimate from ``probes`` random signs of each sample, with
    its standard error.
    Other networks get Hutchinson's estimate from ``probes`` random signs of each weight. ``probes`` and
    ``seed`` are not used elsewhere, ``chunk_size`` not for other networks.

    Raises:
        UserError: invalid arguments.
    """
    if not is_homogeneous(model):
        operator = GenericCurvature(model, x, y, loss=loss, scales=scales, part=part)
        value, error = hutchinson(operator, operator.vectors.gaussian, probes=probes, seed=seed)
        return HessianTrace(value, None, error)
    check_part(part)
    batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
    return trace_of(batch, resolve_scales(scales, batch), part=part, probes=probes, seed=seed)


@torch.no_grad()
def trace_of(
    batch: Minibatch, xi: Tensor, *, part: Part = "hessian", probes: int = 32, seed: int = 0
) -> HessianTrace:
    """The trace of a minibatch whose signals can be shared with other diagnostics.

    Raises:
        UserError: φ is smooth, and there are fewer than two probes.
    """
    partition = batch.partition
    if part == "feature":
        layers = torch.zeros(partition.depth, dtype=torch.float64, device=partition.device)
    else:
        layers = gauss_newton_trace(batch, xi)
    if part == "gauss_newton" or not partition.activation.curved:
        return HessianTrace(layers.sum(), layers, torch.zeros_like(layers[0]))
    check_integer("probes", probes, least=2)
    generator = torch.Generator().manual_seed(seed)
    known, drawn = torch.zeros_like(layers), layers.new_zeros(probes, len(layers))
    for signals in batch:
        for k in range(1, max(signals.bent, default=0) + 1):
            if partition.widths[k] <= probes:
                known[k - 1] += feature_norms(signals, k, units(signals.gate[k])).sum()
            else:
                drawn[:, k - 1] += feature_norms(signals, k, signs(signals.gate[k], probes, generator))
    known, drawn = (partition.sum(t) / batch.total * xi for t in (known, drawn))
    layers = layers + known + drawn.mean(0)
    return HessianTrace(layers.sum(), layers, drawn.sum(1).std() / probes**0.5)


@torch.no_grad()
def gauss_newton_trace(batch: Minibatch, xi: Tensor) -> Tensor:
    """ξ_k tr G_kk of each layer, (l,), float64; one backward pass per output."""
    partition = batch.partition
    layers = torch.zeros(partition.depth, dtype=torch.float64, device=partition.device)
    for signals in batch:
        for c in range(signals.f.shape[1]):
            layers += root_norms(signals, curvature_root(signals, c))
    return partition.sum(layers) / batch.total * xi


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


def units(like: Tensor) -> Iterator[Tensor]:
    """The unit vectors of every sample, each (samples, m)."""
    for column in range(like.shape[1]):
        unit = torch.zeros_like(like)
        unit[:, column] = 1
        yield unit


def signs(like: Tensor, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Random signs (samples, m), the same on every process."""
    for _ in range(count):
        yield (2 * torch.randint(2, like.shape, generator=generator) - 1).to(like)


def feature_norms(s: Signals, k: int, vectors: Iterable[Tensor]) -> Tensor:
    """This process's part of α_k² Σ_i ‖h_{k−1,i}‖² v_iᵀ C_i v_i for each v, (vectors,), float64.  [ours]

    C = Σ_{j≥k} (∂z_j/∂z_k)ᵀ diag(φ″(z_j) ∘ ∂ℓ/∂h_j) ∂z_j/∂z_k is the part of ∂²ℓ_i/∂z_k² from the curvature
    of φ. Its trace is the sum over unit vectors v, and the mean over random signs.
    """
    partition, weights = s.partition, s.h[k - 1].square().sum(1, dtype=torch.float64)
    found = []
    for v in vectors:
        Rz, square = v, torch.zeros_like(weights)
        for j in range(k, s.depth):
            if j > k:
                Rz = partition.preactivation(s.through_activation(Rz, j - 1), j)
            if j in s.bent:
                square += (s.bent[j] * partition.own(Rz, j).square()).sum(1, dtype=torch.float64)
        found.append((weights * square).sum())
    return torch.stack(found) * partition.multiplier(k) ** 2


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
