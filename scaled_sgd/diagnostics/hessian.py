"""Hessian-vector products in weight space (theory §5)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scaled_sgd.core.arguments import check_device
from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.operators.autograd import generic_product
from scaled_sgd.diagnostics.operators.curvature import Curvature, roots_of
from scaled_sgd.diagnostics.operators.generic import check_vectors
from scaled_sgd.diagnostics.operators.r_operator import Part, check_part
from scaled_sgd.diagnostics.operators.weights import RowVectors
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.parallel import (
    Partition,
    full_weight,
    holds_rows,
    is_sharded,
    like_shard,
    local_shard,
)
from scaled_sgd.parallel.family import foreign_part
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.scales import resolve_scales


@without_autocast
def hessian_vector_product(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    vectors: Sequence[Tensor],
    *,
    loss: str,
    scales: str | Tensor | None = None,
    part: Part = "hessian",
    chunk_size: int | None = None,
) -> list[Tensor]:
    """H V of the global minibatch loss, or Ξ^{1/2} H Ξ^{1/2} V with ``scales``.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded; other networks take the generic path.
        x: this process's samples.
        y: this process's targets.
        vectors: one per layer, in the shape of W_k, the same on every process; for a sharded layer a
            DTensor with its layout.
        loss: ``cross_entropy`` or ``mse``.
        scales: ξ as in :func:`~scaled_sgd.diagnostics.taylor.taylor_coefficients`.
        part: ``hessian``, ``gauss_newton`` (the part G from moving outputs) or ``feature`` (H − G).
        chunk_size: largest number of samples at a time.

    Returns:
        The product, in the layout of ``vectors``.

    Raises:
        UserError: invalid arguments.
    """
    if not is_homogeneous(model):
        return generic_product(model, x, y, vectors, loss=loss, scales=scales, part=part)
    batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
    check_part(part)
    space = RowVectors(batch, space="dense", both=part != "gauss_newton")
    operator = Curvature(space, part, roots_of(resolve_scales(scales, batch)))
    flat = torch.cat([rows.reshape(-1) for rows in local_rows(batch.partition, vectors)])
    product = space.expand(operator.multiply(flat, torch.empty_like(flat)))
    return like_vectors(batch.partition, product, vectors)


def is_homogeneous(model: nn.Module) -> bool:
    """Whether ``model``, possibly wrapped, runs what the formulas of a HomogeneousMLP compute."""
    return foreign_part(model) is None


def local_rows(partition: Partition, vectors: Sequence[Tensor], name: str = "vectors") -> list[Tensor]:
    """This process's rows of every layer of a vector; ``name`` is the argument in messages.

    Raises:
        UserError: wrong number of layers, or a layer of the wrong shape.
    """
    check_vectors(vectors, name)
    if len(vectors) != partition.depth:
        raise UserError(f"{name}: {len(vectors)} tensors; allowed: {partition.depth}, one a layer")
    rows = []
    for k, (layer, vector) in enumerate(zip(partition.model.scaled_layers, vectors, strict=True), start=1):
        shape = (layer.out_features, layer.in_features)
        if vector.shape != shape:
            raise UserError(f"{name}: layer {k} has shape {tuple(vector.shape)}; allowed: {shape}")
        check_device(f"{name}: layer {k}", vector, layer.weight.device)
        lies_as_rows = is_sharded(vector) and holds_rows(vector, partition.ranks)
        own = local_shard(vector) if lies_as_rows else full_weight(vector)[partition.columns(k)]
        rows.append(own.to(partition.dtype))
    return rows


def like_vectors(partition: Partition, rows: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    """Every layer in the layout of ``vectors``: one gather per layer that is not row-sharded."""
    return [
        lay_out(partition, own, vector, k)
        for k, (own, vector) in enumerate(zip(rows, vectors, strict=True), start=1)
    ]


def lay_out(partition: Partition, own: Tensor, vector: Tensor, k: int) -> Tensor:
    """Rows of layer k as a tensor like ``vector``: a DTensor of row shards, or a full tensor."""
    if is_sharded(vector) and holds_rows(vector, partition.ranks):
        return like_shard(own, vector)
    return partition.gather(own.T, k).T
