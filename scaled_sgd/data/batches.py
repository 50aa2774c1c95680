"""Minibatches that are the same for any number of processes.

The order of an epoch is a function of (seed, epoch) alone. It is cut into global minibatches first and
into ranks second, so the rows of minibatch b do not depend on the world size, and a run resumes in the
middle of an epoch from the number b.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

SHUFFLED_WHOLE = 1 << 20
"""Up to so many numbers are put in an epoch's order at once, which takes less time than by minibatches."""


def rank_rows(n: int, rank: int, world_size: int) -> slice:
    """Rows of n that belong to a rank: contiguous, sizes differ by at most one, possibly empty."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: {rank}; allowed: 0..{world_size - 1}")
    return slice(n * rank // world_size, n * (rank + 1) // world_size)


def epoch_seed(seed: int, epoch: int) -> int:
    """One 64-bit seed for each (seed, epoch); neighbours give unrelated orders."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def _moved(x: Tensor, y: Tensor, device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return x.to(device, dtype), y.to(device, dtype if y.is_floating_point() else y.dtype)


@dataclass(frozen=True)
class Batch:
    """This rank's rows of one global minibatch."""

    x: Tensor
    """Shape (n, m_0)."""
    y: Tensor
    """Class ids (n,) or targets (n, d)."""
    n_global: int
    """Rows of the minibatch over all ranks: the divisor of every mean."""


@dataclass(frozen=True)
class Resident:
    """Data held as one tensor per process; a minibatch is one indexed read.

    Args:
        x: Inputs (N, m_0).
        y: Class ids (N,) int64, or targets (N, d).
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        """Number of examples N."""
        return self.x.shape[0]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Resident":
        """Move to a device, with inputs and targets in dtype; class ids stay integers."""
        return Resident(*_moved(self.x, self.y, device, dtype))

    def steps_per_epoch(self, batch_size: int) -> int:
        """Minibatches in one epoch, the ragged last one included."""
        return math.ceil(len(self) / batch_size)

    def batches(
        self, *, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """Yield this rank's part of each global minibatch of an epoch, from minibatch `start` on.

        `batch_size` counts the rows of all ranks together. The last minibatch may be smaller, and a rank's
        part of it empty.
        """
        if world_size == 1 and self.x.numel() <= SHUFFLED_WHOLE:
            for x, y in self.shuffled(batch_size=batch_size, seed=seed, epoch=epoch)[start:]:
                yield Batch(x, y, len(x))
            return
        order = self._order(seed, epoch)
        for rows in torch.split(order, batch_size)[start:]:
            own = rows if world_size == 1 else rows[rank_rows(len(rows), rank, world_size)]
            yield Batch(self.x.index_select(0, own), self.y.index_select(0, own), len(rows))

    def shuffled(self, *, batch_size: int, seed: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
        """Inputs and targets of all minibatches of an epoch at once: views of a copy of all data."""
        order = self._order(seed, epoch)
        x, y = (torch.split(t.index_select(0, order), batch_size) for t in (self.x, self.y))
        return list(zip(x, y, strict=True))

    def _order(self, seed: int, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
        return torch.randperm(len(self), generator=generator).to(self.x.device)


@dataclass(frozen=True)
class Stream:
    """Data read while training. Each rank walks the same order and decodes only its own rows.

    Args:
        tables: (seed, batch_size) to the undecoded global minibatches of one epoch, in shuffled order.
            A table has a length and `slice(offset, length)`.
        decode: (table, number of its first row) to float32 inputs and targets.
        empty: Inputs and targets of zero rows, for a rank that has no row in the last minibatch.
        device: Where minibatches are put.
        dtype: Type of their inputs and float targets.
    """

    tables: Callable[[int, int], Iterable[Any]]
    decode: Callable[[Any, int], tuple[Tensor, Tensor]]
    empty: tuple[Tensor, Tensor]
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Stream":
        """Put later minibatches on a device, as `Resident.to` does at once."""
        return replace(self, device=device, dtype=dtype)

    def steps_per_epoch(self, batch_size: int) -> None:
        """Unknown: a stream has no length."""
        return None

    def batches(
        self, *, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """Yield as `Resident.batches` does; minibatches before `start` are read and not decoded."""
        for index, table in enumerate(self.tables(epoch_seed(seed, epoch), batch_size)):
            if index < start:
                continue
            n = len(table)
            rows = rank_rows(n, rank, world_size)
            own = table.slice(rows.start, rows.stop - rows.start)
            x, y = self.decode(own, index * batch_size + rows.start) if len(own) else self.empty
            yield Batch(*_moved(x, y, self.device, self.dtype), n_global=n)
