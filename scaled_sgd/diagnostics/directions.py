"""Directions u of a step θ + ηu for diagnostics: factors of the signals, or rows (theory §3b)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scaled_sgd.core.arguments import check_device
from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.hessian import local_rows
from scaled_sgd.diagnostics.operators.autograd import check_vectors
from scaled_sgd.parallel import Partition, is_sharded
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch, gradient_rows
from scaled_sgd.steps.signals import Signals


@dataclass(frozen=True)
class Factors:
    """α_k u_k = scale · weightedᵀ h_{k−1} for the samples of the chunk.

    Attributes:
        scale: −ξ_k α_k²/n, ().
        weighted: K_kᵀ δ_k, this process's columns (n, width(k)).
    """

    scale: Tensor
    weighted: Tensor

    def rows(self, h: Tensor) -> Tensor:
        """This process's rows of α_k u_k, (width(k), m_{k−1})."""
        return (self.weighted * self.scale).T @ h


Updates = Callable[[int], Tensor | Factors]
"""α_k u_k of layer k on this process: its rows (width(k), m_{k−1}), or factors."""


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
    if batch.chunked:
        raise UserError(
            f"direction: matrices belong to all {n} samples, not to chunks of {batch.chunk_size}; allowed "
            "with chunk_size: numbers, or dense tensors"
        )
    shapes = [None if K is None else tuple(K.shape) for K in direction.matrices or ()]
    if len(shapes) != depth or any(shape not in (None, (n, n)) for shape in shapes):
        raise UserError(f"direction: matrices of shapes {shapes}; allowed: {depth}, each ({n}, {n}) or None")
    matrices = [None if K is None else K.to(device, dtype) for K in direction.matrices or ()]
    return replace(direction, numbers=numbers, matrices=matrices)


def given_direction(direction: object, batch: Minibatch) -> Direction | Updates:
    """The user's direction: a :class:`Direction` K, u_k = −U_k, or dense tensors u_k.

    Raises:
        UserError: it is neither, or does not fit the network.
    """
    if isinstance(direction, Direction):
        fitted = fit_direction(direction, batch)
        numbers = [fitted.numbers, *(K for K in fitted.matrices or () if K is not None)]
        if not all(bool(t.isfinite().all()) for t in numbers):
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
        scale = -direction.numbers[k - 1] * (partition.multiplier(k) ** 2 / signals.total)
        factors = Factors(scale, direction.weighted(signals.delta[k], k - 1))
        m_in, m_out = partition.model.widths[k - 1 : k + 1]
        in_factors = 4 * m_in * m_out > 3 * n * (m_in + m_out)
        return factors if in_factors else factors.rows(signals.h[k - 1])

    return update


def update_rows(batch: Minibatch, direction: Direction) -> Callable[[int], Tensor]:
    """This process's rows of α_k u_k, one layer at a time; for a chunked minibatch all are held."""
    partition = batch.partition
    if batch.chunked:
        held = gradient_rows(batch)
        for k, G in held.items():
            G.mul_(-partition.multiplier(k) * direction.numbers[k - 1])
        return held.__getitem__

    def rows(k: int) -> Tensor:
        s = batch.first
        scale = -direction.numbers[k - 1] * (partition.multiplier(k) ** 2 / s.total)
        return Factors(scale, direction.weighted(s.delta[k], k - 1)).rows(s.h[k - 1])

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
        s = batch.first
        weighted, h = fitted.weighted(s.delta[k], k - 1), s.h[k - 1]
        square = ((weighted @ weighted.T) * (h @ h.T)).sum(dtype=torch.float64)
        squares.append(square * (fitted.numbers[k - 1].double() * alpha / s.total) ** 2)
    return partition.sum(torch.stack(squares)).clamp(min=0).sqrt()
