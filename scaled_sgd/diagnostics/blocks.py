"""Each layer's diagonal block of the Hessian, and its part of an eigenvector."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.eigenpairs import sharpness_of
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.kernels import layer_kernels
from scaled_sgd.diagnostics.operators.autograd import GenericCurvature
from scaled_sgd.diagnostics.operators.curvature import Curvature, curvature
from scaled_sgd.diagnostics.operators.generic import GenericVectors
from scaled_sgd.diagnostics.operators.samples import SampleVectors
from scaled_sgd.diagnostics.operators.weights import RowVectors
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.diagnostics.trace import curvature_root
from scaled_sgd.steps.minibatch import Minibatch

_PRODUCTS = 10
"""Products of a search by Lanczos, about."""


@without_autocast
def block_sharpness(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: str,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    chunk_size: int | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    seed: int = 0,
) -> Tensor:
    """The largest eigenvalue of each layer's diagonal block H_kk on the global minibatch, (l,), float64.

    Networks other than a HomogeneousMLP get one number for each trainable parameter tensor, or each group.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded; other networks take the generic path.
        x: this process's samples.
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        tolerance: relative residual of an eigenvalue found by Lanczos.
        max_iterations: largest number of products for a block.
        chunk_size: largest number of samples at a time; None: all.
        groups: for other networks, names of the trainable parameter tensors of each block, such as a weight
            with its bias; None: each is a block.
        seed: seed of the start vectors.

    Raises:
        UserError: invalid arguments.
    """
    if is_homogeneous(model):
        if groups is not None:
            raise UserError("groups: blocks of a HomogeneousMLP are its layers; allowed here: None")
        batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
        if grams_are_smaller(batch):
            return block_spectra(batch)[:, 0]
        operators: list[Curvature] | list[GenericCurvature] = [
            curvature(batch, layers=[k]) for k in range(1, batch.partition.depth + 1)
        ]
    else:
        groups = [[name] for name in GenericVectors(model).parameters] if groups is None else groups
        operators = [GenericCurvature(model, x, y, loss=loss, only=names) for names in groups]
    found = [
        sharpness_of(operator, tolerance=tolerance, max_iterations=max_iterations, seed=seed)
        for operator in operators
    ]
    return torch.stack([pairs.values[0] for pairs in found])


def grams_are_smaller(batch: Minibatch) -> bool:
    """Whether :func:`block_spectra` holds and takes fewer multiplications than searches by Lanczos."""
    if batch.chunked or batch.partition.activation.curved:
        return False
    widths, n = batch.partition.model.widths, batch.total
    N = n * widths[-1]
    grams = lanczos = 0
    above = 0
    for k in range(len(widths) - 1, 0, -1):
        m_in, m_out = widths[k - 1 : k + 1]
        grams += N * m_in * m_out + N * N * m_out + 3 * N**3
        lanczos += _PRODUCTS * n * (2 * above + min(2 * m_in * m_out, n * m_out))
        above += m_in * m_out
    return grams < lanczos


@torch.no_grad()
def block_spectra(batch: Minibatch) -> Tensor:
    """Eigenvalues of each layer's H_kk, largest first, (l, n m_l), float64; some are 0.  [ours]

    Outputs are linear in each single W_k while no activation changes sign, so that H_kk is the Gauss–Newton
    block (for a smooth φ it is not), which has the non-zero eigenvalues of the Gram matrix over samples and
    outputs

        (α_k²/n) ⟨h_{k−1,i}, h_{k−1,j}⟩ ⟨δ^{(c)}_{k,i}, δ^{(d)}_{k,j}⟩,

    with δ^{(c)}_l = s_c and ℓ'' = Σ_c s_c s_cᵀ.
    """
    s, partition = batch.first, batch.partition
    roots = torch.stack([curvature_root(s, c) for c in range(s.f.shape[1])])
    found = [
        torch.linalg.eigvalsh(partition.sum(kernel).double() / batch.total).flip(0)
        for _, kernel in layer_kernels(partition, s.h, s.gate, roots)
    ]
    return torch.stack(found[::-1])


@torch.no_grad()
def layer_shares(vectors: RowVectors | SampleVectors, v: Tensor) -> Tensor:
    """‖V_k‖²/‖V‖² of each layer of a vector, (l,), float64."""
    parts = zip(vectors.split(v), vectors.split(vectors.dual(v)), strict=True)
    squares = vectors.sum(torch.stack([torch.dot(a, b) for a, b in parts]).double())
    return squares / squares.sum()
