"""The network's tangent kernel on a probe batch, by Gram matrices (theory §1, §3)."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.operators.autograd import generic_scales
from scaled_sgd.diagnostics.operators.generic import GenericVectors
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.scales import given_scales
from scaled_sgd.steps.signals import backward, forward


@torch.no_grad()
@without_autocast
def tangent_kernel(
    model: nn.Module, x: Tensor, *, scales: Tensor | None = None, trace_outputs: bool = False
) -> Tensor:
    """Θ = J Ξ Jᵀ of the global batch, J the derivative of all outputs in all weights.

    Θ_{(i,c),(j,d)} = Σ_k ξ_k α_k² ⟨h_{k−1,i}, h_{k−1,j}⟩ ⟨δ^{(c)}_{k,i}, δ^{(d)}_{k,j}⟩ with δ^{(c)}_l = e_c,
    shape (n·m_l, n·m_l), outputs vary fastest; or with ``trace_outputs`` its sum over c = d, (n, n), which
    never holds the signals of more than one output.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded; other networks take the generic path, which
            holds J of this process's samples, with ``trace_outputs`` of one output at a time.
        x: this process's samples; the global batch has them in the order of ranks.
        scales: ξ, a tensor (l,), for other networks one number for each trainable parameter tensor, or None
            for 1; for ``model``'s scales see
            :func:`~scaled_sgd.steps.scales.resolve_scales`.
        trace_outputs: sum over outputs.

    Raises:
        UserError: invalid arguments.
    """
    if not is_homogeneous(model):
        return _generic_kernel(model, x, scales=scales, trace_outputs=trace_outputs)
    partition = Partition.of(model)
    widths = partition.model.widths
    if x.ndim != 2 or x.shape[1] != widths[0]:
        raise UserError(f"x: shape {tuple(x.shape)} does not fit; allowed: (n, {widths[0]})")
    xi = given_scales(scales, partition.depth, dtype=partition.dtype, device=partition.device)
    samples, _ = partition.ranks.gather_samples(x.detach(), x.new_empty(len(x)))
    h, gate, f = forward(partition, samples)
    if trace_outputs:
        return traced_kernel(partition, h, gate, xi)
    outputs = torch.eye(widths[-1], dtype=f.dtype, device=f.device)
    theta = f.new_zeros(())
    for k, kernel in layer_kernels(partition, h, gate, outputs[:, None].expand(-1, *f.shape)):
        theta = theta + xi[k - 1] * kernel
    return partition.sum(theta)


def _generic_kernel(model: nn.Module, x: Tensor, *, scales: Tensor | None, trace_outputs: bool) -> Tensor:
    """The same of any network, from J by backward passes; processes exchange it, one tensor at a time."""
    vectors = GenericVectors(model)
    if not isinstance(x, Tensor):
        raise UserError(f"x: {type(x).__name__} does not fit; allowed: a tensor of samples")
    xi, ranks = generic_scales(vectors, scales), vectors.ranks
    counts = ranks.counts(len(x), vectors.device)
    if sum(counts) == 0:
        raise UserError("x: no samples on any process; allowed: at least one")

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        f: Tensor = functional_call(vectors.network, parameters, (x,))
        if f.ndim != 2:
            raise UserError(f"model: outputs of shape {tuple(f.shape)} do not fit; allowed: (n, m)")
        return f

    def gram(columns: slice, width: int) -> Tensor:
        J = jacrev(lambda p: outputs(p)[:, columns])(vectors.parameters) if len(x) else {}
        sizes = [count * width for count in counts]
        theta = torch.zeros(sum(sizes), sum(sizes), dtype=vectors.dtype, device=vectors.device)
        for number, (key, p) in zip(xi, vectors.parameters.items(), strict=True):
            own = J[key].detach().reshape(-1, p.numel()) if J else theta.new_zeros(0, p.numel())
            rows = ranks.gather(own, sizes)
            theta.addmm_(rows * number, rows.T)
        return theta

    # A process without samples learns the number of outputs from the others.
    m = max(ranks.counts(outputs(vectors.parameters).shape[1] if len(x) else 0, vectors.device))
    if not trace_outputs:
        return gram(slice(None), m)
    return torch.stack([gram(slice(c, c + 1), 1) for c in range(m)]).sum(0)


@torch.no_grad()
def traced_kernel(
    partition: Partition, h: Sequence[Tensor], gate: Mapping[int, Tensor], xi: Tensor
) -> Tensor:
    """Σ_c Θ_{(i,c),(j,c)}, (n, n), of given signals; holds those of one output and l matrices (n, n)."""
    n, outputs = len(h[0]), partition.widths[-1]
    pairs = h[0].new_zeros(partition.depth, n, n)
    for c in range(outputs):
        root = h[0].new_zeros(n, outputs)
        root[:, c] = 1
        delta = partition.own(root, partition.depth)
        for k in range(partition.depth, 0, -1):
            pairs[k - 1].addmm_(delta, delta.T)
            if k > 1:
                delta = backward(partition, delta, gate[k - 1], k)
    theta = h[0].new_zeros(n, n)
    for k, pair in enumerate(partition.sum(pairs), start=1):
        theta += (xi[k - 1] * partition.multiplier(k) ** 2) * pair * (h[k - 1] @ h[k - 1].T)
    return theta


def layer_kernels(
    partition: Partition, h: Sequence[Tensor], gate: Mapping[int, Tensor], roots: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Each layer's part of the kernel of s_cᵀ f for signals s (c, n, m_l), from the last layer to the first.

    α_k² ⟨h_{k−1,i}, h_{k−1,j}⟩ ⟨δ^{(c)}_{k,i}, δ^{(d)}_{k,j}⟩ with δ^{(c)}_l = s_c, shape (n·c, n·c), c
    varies fastest: this process's part, to be summed over the processes.
    """
    c, n, _ = roots.shape
    delta = partition.own(roots, partition.depth)
    for k in range(partition.depth, 0, -1):
        K_h = h[k - 1] @ h[k - 1].T
        kernel = partition.multiplier(k) ** 2 * K_h[:, None, :, None] * _pairs(delta)
        yield k, kernel.reshape(n * c, n * c)
        if k > 1:
            delta = backward(partition, delta, gate[k - 1], k)


def _pairs(delta: Tensor) -> Tensor:
    """⟨δ^{(c)}_i, δ^{(d)}_j⟩ of signals (outputs, n, ·), shape (n, outputs, n, outputs)."""
    c, n, m = delta.shape
    rows = delta.transpose(0, 1).reshape(n * c, m)
    return (rows @ rows.T).view(n, c, n, c)


@torch.no_grad()
def top_eigenvalues(kernel: Tensor, k: int = 1) -> Tensor:
    """The ``k`` largest eigenvalues of a symmetric kernel, largest first, float64.

    Raises:
        UserError: not a square matrix, or k out of range.
    """
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise UserError(f"kernel: shape {tuple(kernel.shape)} is not square; allowed: (n, n)")
    if not 1 <= k <= len(kernel):
        raise UserError(f"k: {k!r} is out of range; allowed: 1 to {len(kernel)}")
    ascending: Tensor = torch.linalg.eigvalsh(kernel.to(torch.float64))
    return ascending.flip(0)[:k]
