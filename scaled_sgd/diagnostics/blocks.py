"""Each layer's diagonal block of the Hessian, and its part of an eigenvector."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.eigenpairs import sharpness_of
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.operators.autograd import GenericCurvature
from scaled_sgd.diagnostics.operators.curvature import Curvature, curvature
from scaled_sgd.diagnostics.operators.generic import GenericVectors
from scaled_sgd.diagnostics.operators.layered import LayeredVectors
from scaled_sgd.diagnostics.operators.outputs import OutputBlock, output_blocks, through_outputs
from scaled_sgd.diagnostics.operators.space import WeightOperator
from scaled_sgd.diagnostics.precision import without_autocast
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
    operators: Iterable[tuple[int, WeightOperator]]
    if is_homogeneous(model):
        if groups is not None:
            raise UserError("groups: blocks of a HomogeneousMLP are its layers; allowed here: None")
        operators = block_operators(Minibatch(model, x, y, loss=loss, chunk_size=chunk_size))
    else:
        groups = [[name] for name in GenericVectors(model).parameters] if groups is None else groups
        operators = (
            (i, GenericCurvature(model, x, y, loss=loss, only=names)) for i, names in enumerate(groups)
        )
    found = {
        i: sharpness_of(operator, tolerance=tolerance, max_iterations=max_iterations, seed=seed).values[0]
        for i, operator in operators
    }
    return torch.stack([found[i] for i in sorted(found)])


def block_operators(batch: Minibatch) -> Iterator[tuple[int, Curvature | OutputBlock]]:
    """Every layer k with an operator that has the positive eigenvalues of H_kk, the cheapest to search."""
    if through_outputs(batch, _PRODUCTS):
        for block in output_blocks(batch):
            yield block.k, block
    else:
        for k in range(1, batch.partition.depth + 1):
            yield k, curvature(batch, layers=[k])


@torch.no_grad()
def layer_shares(vectors: LayeredVectors, v: Tensor) -> Tensor:
    """‖V_k‖²/‖V‖² of each layer of a vector, (l,), float64."""
    squares = vectors.squares(v, vectors.dual(v))
    return squares / squares.sum()
