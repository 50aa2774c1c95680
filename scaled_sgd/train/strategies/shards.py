"""One process's part of each layer: the view of a network for checkpoints, clipping and start-up."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.core.start import rows_at_start
from scaled_sgd.parallel import Partition
from scaled_sgd.parallel.agreement import gather
from scaled_sgd.parallel.layout import local_shard, row_range
from scaled_sgd.parallel.ranks import Ranks
from scaled_sgd.runs.checkpoint.pieces import Piece, plan, values_in
from scaled_sgd.steps.statistics import square_norm

Kind = str
"""``weight``, or the checkpoint name of an optimizer tensor, such as ``momentum``."""
Read = Callable[[int, int], Tensor]
"""Reads elements start..stop of a row-major W_k or optimizer tensor, shape (stop − start,), on the CPU."""

READ_ELEMENTS = 1 << 21
"""Elements that are read at a time."""


class Shard(Protocol):
    """One layer's elements ``start`` to ``stop`` in row-major order, held by this process.

    Attributes:
        k: the layer, from 1.
        shape: of W_k.
        start: first element held by this process.
        stop: one past the last.
        copies: number of processes that hold these elements.
    """

    k: int
    shape: tuple[int, int]
    start: int
    stop: int
    copies: int

    def values(self, kind: Kind) -> Tensor | None:
        """The weights or an optimizer tensor as a flat view; None if there is none."""
        ...

    def gradient(self) -> Tensor | None:
        """The flat gradient after the step's last backward pass, or None."""
        ...

    def fill(self, kind: Kind, read: Read) -> None:
        """Replace the elements by those from ``read``. Every process reads only its own part."""
        ...


class RowShard:
    """A replica, or full rows of a DTensor, trained by a ``torch.optim`` optimizer.

    Raises:
        UserError: the weight has another layout.
    """

    def __init__(
        self, k: int, weight: nn.Parameter, optimizer: Optimizer, kept: Mapping[str, str], *, copies: int
    ) -> None:
        self.k, self.copies = k, copies
        self._weight, self._optimizer, self._kept = weight, optimizer, kept
        rows, fan_in = weight.shape
        self.shape = (rows, fan_in)
        self.start, self.stop = (row * fan_in for row in row_range(weight))

    def values(self, kind: Kind) -> Tensor | None:
        """The weights or an optimizer tensor as a flat view."""
        if kind == "weight":
            return local_shard(self._weight).view(-1)
        buffer = self._optimizer.state.get(self._weight, {}).get(self._kept.get(kind, ""))
        return None if buffer is None else local_shard(buffer).view(-1)

    def gradient(self) -> Tensor | None:
        """The flat gradient."""
        return None if self._weight.grad is None else local_shard(self._weight.grad).view(-1)

    def fill(self, kind: Kind, read: Read) -> None:
        """Replace the elements by those from ``read``."""
        if kind != "weight":
            self._optimizer.state[self._weight][self._kept[kind]] = torch.zeros_like(self._weight)
        held = self.values(kind)
        assert held is not None
        copy_range(held, self.start, read)


def state_rows(
    shards: Sequence[Shard], partition: Partition, kind: Kind = "momentum"
) -> Callable[[int], Tensor | None]:
    """This process's rows of v_k or another tensor before a step, by k; None while it is zero. Collective."""

    def rows(k: int) -> Tensor | None:
        shard, own = shards[k - 1], partition.columns(k)
        fan_in = shard.shape[1]
        values = shard.values(kind)
        if isinstance(shard, RowShard):
            if values is None:
                return None
            first = shard.start // fan_in
            return values.view(-1, fan_in)[own.start - first : own.stop - first]
        # Flat parts do not end at rows: those of all processes are added up, one layer at a time.
        whole = torch.zeros(shard.shape[0] * fan_in, dtype=torch.float32, device=partition.device)
        if values is not None:
            whole[shard.start : shard.stop] = values
        return partition.sum(whole).view(shard.shape)[own]

    return rows


def copy_range(target: Tensor, start: int, read: Read) -> None:
    """Fill ``target`` (count,) with the elements from ``start`` on, in blocks."""
    for first in range(0, len(target), READ_ELEMENTS):
        part = target[first : first + READ_ELEMENTS]
        part.copy_(read(start + first, start + first + len(part)))


def initial_values(network: HomogeneousMLP, k: int) -> Read:
    """Reads W_k at step 0, of which any range can be generated separately."""
    fan_in = network.widths[k - 1]

    def read(start: int, stop: int) -> Tensor:
        first, last = start // fan_in, -(-stop // fan_in)
        rows = rows_at_start(network, k, first, last)
        return rows.view(-1)[start - first * fan_in : stop - first * fan_in]

    return read


def whole_weights(shards: Sequence[Shard]) -> Iterator[Tensor]:
    """W_1..W_l, flat, one at a time, to be used on rank 0 only. Collective: every rank takes all."""
    pieces = [Piece(str(s.k), s.shape, s.start, v) for s in shards if (v := s.values("weight")) is not None]
    claims = gather([piece.claim for piece in pieces])
    layouts, ranks = plan(claims), Ranks()
    for piece, first in zip(pieces, claims[0], strict=True):
        count = math.prod(piece.shape)
        if (first.start, first.stop) == (0, count):
            yield piece.values
            continue
        whole = piece.values.new_zeros(count)
        for extent in layouts[piece.name].extents:
            if extent.rank == ranks.rank:
                whole[extent.start : extent.stop] = values_in([piece], piece.name, extent)
        yield ranks.sum(whole)


def gradient_squares(shards: Sequence[Shard], device: torch.device) -> Tensor:
    """‖G_k‖_F² (l,) in float64. Collective if gradients are sharded."""
    ranks = Ranks()
    squares = torch.zeros(len(shards), dtype=torch.float64, device=device)
    for place, shard in enumerate(shards):
        gradient = shard.gradient()
        if gradient is not None:
            squares[place] = square_norm(gradient) / shard.copies
    whole = all(shard.copies == ranks.size for shard in shards)
    return squares * ranks.size if whole else ranks.sum(squares)
