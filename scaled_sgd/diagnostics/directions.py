"""Directions u of a step θ + ηu for diagnostics: factors of the signals, or rows (theory §3b)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.core.arguments import check_device
from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.eigenpairs import Eigenpairs
from scaled_sgd.diagnostics.hessian import local_rows
from scaled_sgd.diagnostics.operators.generic import check_vectors
from scaled_sgd.parallel import Partition, is_sharded
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.signals import Signals


@dataclass(frozen=True)
class Factors:
    """α_k u_k = scale · leftᵀ right for the samples of the chunk.

    Attributes:
        scale: −ξ_k α_k²/n, ().
        left: δ_k or K_kᵀ δ_k, this process's columns (n, width(k)).
        right: h_{k−1} or K_k h_{k−1}, (n, m_{k−1}).
    """

    scale: Tensor
    left: Tensor
    right: Tensor

    @property
    def rows(self) -> Tensor:
        """This process's rows of α_k u_k, (width(k), m_{k−1})."""
        return (self.left * self.scale).T @ self.right


Updates = Callable[[int], Tensor | Factors]
"""α_k u_k of layer k on this process: its rows (width(k), m_{k−1}), or factors."""


def push(partition: Partition, update: Tensor | Factors, h: Tensor, k: int) -> Tensor:
    """α_k h u_kᵀ (rows, width(k)): this process's columns, from h (rows, m_{k−1}) that every process has."""
    if isinstance(update, Tensor):
        return h @ update.T
    own, right = (partition.own(t, k - 1) for t in (h, update.right))
    return (partition.sum(own @ right.T) * update.scale) @ update.left


def fit_direction(direction: Direction, batch: Minibatch) -> Direction:
    """``direction`` in the dtype of the computations.

    Raises:
        UserError: numbers or matrices of the wrong shape, or matrices with a chunked minibatch.
    """
    partition, n = batch.partition, batch.total
    depth, dtype, device = partition.depth, partition.dtype, partition.device
    if direction.numbers.shape != (depth,):
        shape = tuple(direction.numbers.shape)
        raise UserError(f"direction: numbers of shape {shape} do not fit; allowed: ({depth},)")
    numbers = direction.numbers.to(device, dtype)
    if direction.is_scalar:
        return Direction(numbers)
    if batch.chunked and direction.matrices and any(K is not None for K in direction.matrices):
        raise UserError(
            f"direction: matrices belong to all {n} samples, not to chunks of {batch.chunk_size}; allowed "
            "with chunk_size: numbers, or dense tensors"
        )
    widths = [(partition.width(k), partition.model.widths[k - 1]) for k in range(1, depth + 1)]
    for name, given, wanted in (
        ("matrices", direction.matrices, [(n, n)] * depth),
        ("dense", direction.dense, widths),
    ):
        shapes = [None if t is None else tuple(t.shape) for t in given or [None] * depth]
        if len(shapes) != depth or any(a not in (None, b) for a, b in zip(shapes, wanted, strict=True)):
            raise UserError(f"direction: {name} of shapes {shapes}; allowed: {wanted}, or None for a layer")
    matrices, dense = (
        None if given is None else [None if t is None else t.to(device, dtype) for t in given]
        for given in (direction.matrices, direction.dense)
    )
    return Direction(numbers, matrices, dense)


def given_direction(direction: object, batch: Minibatch) -> Direction | Updates:
    """The user's direction: a :class:`Direction` K, u_k = −U_k, dense tensors u_k, or a first eigenvector.

    Raises:
        UserError: it is neither, or does not fit the network.
    """
    if isinstance(direction, Eigenpairs):
        direction = direction.expand()
    if isinstance(direction, Direction):
        fitted = fit_direction(direction, batch)
        given = [fitted.numbers, *(fitted.matrices or ()), *(fitted.dense or ())]
        if not all(bool(t.isfinite().all()) for t in given if t is not None):
            raise UserError("direction: not all numbers are finite; allowed: finite ones")
        return fitted
    check_vectors(direction, "direction")
    assert isinstance(direction, Sequence)
    rows = _own_rows(batch.partition, direction)
    return lambda k: rows[k - 1] * batch.partition.multiplier(k)


def _own_rows(partition: Partition, tensors: Sequence[Tensor]) -> list[Tensor]:
    """This process's rows of each layer, from full tensors or from rows."""
    shapes = [(partition.width(k), partition.model.widths[k - 1]) for k in range(1, partition.depth + 1)]
    if [tuple(t.shape) for t in tensors] == shapes and not any(is_sharded(t) for t in tensors):
        for k, t in enumerate(tensors, start=1):
            check_device(f"direction: layer {k}", t, partition.device)
        return [t.detach().to(partition.dtype) for t in tensors]
    return local_rows(partition, tensors, "direction")


def updates_along(signals: Signals, direction: Direction) -> Updates:
    """Each layer as rows where forming them takes fewer multiplications than factors do, else as factors."""
    partition, n = signals.partition, signals.samples

    def update(k: int) -> Tensor | Factors:
        found = _update(signals, direction, k)
        m_in, m_out = partition.model.widths[k - 1 : k + 1]
        in_factors = 4 * m_in * m_out > 3 * n * (m_in + m_out)
        return found.rows if isinstance(found, Factors) and not in_factors else found

    return update


def _update(signals: Signals, direction: Direction, k: int) -> Tensor | Factors:
    """α_k u_k as ``direction`` gives it."""
    scale = _scale(signals.partition, direction, k, signals.total)
    dense = direction.rows(k - 1)
    if dense is not None:
        return dense * scale
    return Factors(scale, *direction.factors(signals.delta[k], signals.h[k - 1], k - 1))


def _scale(partition: Partition, direction: Direction, k: int, n: int) -> Tensor:
    """−ξ_k α_k²/n, ()."""
    return -direction.numbers[k - 1] * (partition.multiplier(k) ** 2 / n)


def update_rows(batch: Minibatch, direction: Direction) -> Callable[[int], Tensor]:
    """This process's rows of α_k u_k, one layer at a time; for a chunked minibatch all are held."""
    partition = batch.partition
    if batch.chunked:
        dense = direction.dense or [layer.rows for layer in batch.layers]
        held = {
            k: rows * _scale(partition, direction, k, batch.total)
            for k, rows in enumerate(dense, start=1)
            if rows is not None
        }
        return held.__getitem__

    def rows(k: int) -> Tensor:
        found = _update(batch.first, direction, k)
        return found.rows if isinstance(found, Factors) else found

    return rows


@torch.no_grad()
def direction_norms(batch: Minibatch, direction: Direction) -> Tensor:
    """‖U_k‖_F = (α_k/n) √(tr K_kᵀ A_k K_k B_k) with A = δ δᵀ and B = h hᵀ, shape (l,), float64.

    Raises:
        UserError: the direction does not fit the minibatch.
    """
    partition, fitted = batch.partition, fit_direction(direction, batch)
    squares = []
    rows = update_rows(batch, fitted) if batch.chunked else None
    for k in range(1, partition.depth + 1):
        alpha = partition.multiplier(k)
        if rows is not None:
            squares.append(rows(k).square().sum(dtype=torch.float64) / alpha**2)
            continue
        s, dense = batch.first, fitted.rows(k - 1)
        if dense is None:
            left, right = fitted.factors(s.delta[k], s.h[k - 1], k - 1)
            square = ((left @ left.T) * (right @ right.T)).sum(dtype=torch.float64)
        else:
            square = dense.square().sum(dtype=torch.float64)
        squares.append(square * (fitted.numbers[k - 1].double() * alpha / s.total) ** 2)
    return partition.sum(torch.stack(squares)).clamp(min=0).sqrt()
