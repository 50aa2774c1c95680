"""Minibatches that do not depend on the number of processes.

The order of an epoch is a function of (seed, epoch) only. It is first cut into global minibatches, then
into ranks, so the rows of minibatch b do not depend on the world size, and a run can resume in the
middle of an epoch from the number b.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scaled_sgd.data.ahead import ahead

Samples = tuple[Tensor, Tensor]
"""Inputs (n, m_0), and class ids (n,) or targets (n, d)."""

SHUFFLED_WHOLE = 1 << 20
"""Data of at most this many elements are permuted once per epoch, which is faster than per minibatch."""


def rank_rows(n: int, rank: int, world_size: int) -> slice:
    """This rank's share of n rows: contiguous, sizes differ by at most one, possibly empty."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: {rank}; allowed: 0..{world_size - 1}")
    return slice(n * rank // world_size, n * (rank + 1) // world_size)


def epoch_seed(seed: int, epoch: int) -> int:
    """One 64-bit seed per (seed, epoch); neighbouring pairs give unrelated orders."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def to_device(t: Tensor, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """``t`` on a device in ``dtype``, from the host without waiting until a GPU has done its work."""
    if torch.device(device).type != "cuda" or t.device.type != "cpu":
        return t.to(device, dtype)
    # From other memory the host waits.
    return t.to(dtype).pin_memory().to(device, non_blocking=True)


def _moved(
    x: Tensor,
    y: Tensor,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    move: Callable[[Tensor, torch.device | str, torch.dtype], Tensor] = Tensor.to,
) -> Samples:
    return move(x, device, dtype), move(y, device, dtype if y.is_floating_point() else y.dtype)


@dataclass(slots=True)
class Batch:
    """One global minibatch; each rank takes its own rows or all rows.

    Attributes:
        epoch: whose it is.
        number: its place in the epoch.
        n_global: rows over all ranks: the divisor of every mean.
        own_rows: which of these are this rank's, perhaps none.
        cut: takes some of them; of a stream, of which a rank has only its own rows, no others.
        gather: all rows of a stream, from all ranks that share it; None: ``cut`` takes them. Collective.
    """

    epoch: int
    number: int
    n_global: int
    own_rows: slice
    cut: Callable[[slice], Samples]
    gather: Callable[[], Samples] | None = None

    def own(self) -> Samples:
        """This rank's rows."""
        return self.cut(self.own_rows)

    def whole(self) -> Samples:
        """All rows. Collective of a stream."""
        return self.cut(slice(0, self.n_global)) if self.gather is None else self.gather()


@dataclass(frozen=True)
class Resident:
    """Data held as one tensor per process; reading a minibatch is one indexing operation.

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
        """Move to a device, with inputs and float targets in ``dtype``; class ids stay integers."""
        return Resident(*_moved(self.x, self.y, device, dtype))

    def steps_per_epoch(self, batch_size: int) -> int:
        """Minibatches per epoch, including the possibly smaller last one."""
        return math.ceil(len(self) / batch_size)

    def with_targets(self, targets: Callable[[Tensor], Tensor]) -> "Resident":
        """The same inputs, with ``targets`` applied to the targets."""
        return Resident(self.x, targets(self.y))

    def batches(
        self, *, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """Yield the global minibatches of an epoch, starting with minibatch `start`.

        `batch_size` counts the rows of all ranks together. The last minibatch may be smaller, and a rank's
        part of it empty. Every rank has all data, so no communication is needed.
        """
        order = self._order(seed, epoch)
        minibatches = torch.split(order, batch_size)
        cuts: Iterable[Callable[[slice], Samples]]
        if self.x.numel() <= SHUFFLED_WHOLE:
            x, y = (torch.split(t.index_select(0, order), batch_size) for t in (self.x, self.y))
            cuts = map(partial, repeat(_rows), x, y)
        else:
            cuts = map(partial, repeat(self._selected), minibatches)
        for number, (rows, cut) in enumerate(zip(minibatches, cuts, strict=True)):
            if number >= start:
                n = len(rows)
                own = slice(0, n) if world_size == 1 else rank_rows(n, rank, world_size)
                yield Batch(epoch, number, n, own, cut)

    def _selected(self, minibatch: Tensor, rows: slice) -> Samples:
        chosen = minibatch[rows]
        return self.x.index_select(0, chosen), self.y.index_select(0, chosen)

    def _order(self, seed: int, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
        return to_device(torch.randperm(len(self), generator=generator), self.x.device, torch.int64)


@dataclass(frozen=True)
class Stream:
    """Data read during training. Every rank follows the same order and decodes only its own rows.

    Args:
        tables: maps (seed, batch_size) to the undecoded global minibatches of one epoch, in shuffled order.
            A table has a length and `slice(offset, length)`.
        decode: maps (table, number of its first row) to float32 inputs and targets.
        empty: Inputs and targets with zero rows, for a rank without rows in the last minibatch.
        device: Device of the minibatches.
        dtype: Type of their inputs and float targets.
        digest: Identifies the contents of its files.
    """

    tables: Callable[[int, int], Iterable[Any]]
    decode: Callable[[Any, int], Samples]
    empty: Samples
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    digest: str | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Stream":
        """Put all later minibatches on a device."""
        return replace(self, device=device, dtype=dtype)

    def steps_per_epoch(self, batch_size: int) -> None:
        """Unknown: a stream has no length."""
        return None

    def with_targets(self, targets: Callable[[Tensor], Tensor]) -> "Stream":
        """The same inputs, with ``targets`` applied to the targets."""
        decode, (x, y) = self.decode, self.empty

        def decoded(table: Any, first_row: int) -> Samples:
            inputs, found = decode(table, first_row)
            return inputs, targets(found)

        return replace(self, decode=decoded, empty=(x, targets(y)))

    def batches(
        self, *, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """Yield minibatches like `Resident.batches`, with this rank's own rows only.

        Minibatches before `start` are read but not decoded.
        """

        def decoded() -> Iterator[tuple[int, int, slice, Samples]]:
            for index, table in enumerate(self.tables(epoch_seed(seed, epoch), batch_size)):
                if index < start:
                    continue
                n = len(table)
                rows = rank_rows(n, rank, world_size)
                own = table.slice(rows.start, rows.stop - rows.start)
                found = self.decode(own, index * batch_size + rows.start) if len(own) else self.empty
                yield index, n, rows, found

        # A GPU works while its host decodes; a CPU has no time to spare.
        found = decoded() if torch.device(self.device).type == "cpu" else ahead(decoded())
        for index, n, rows, (x, y) in found:
            moved = _moved(x, y, self.device, self.dtype, move=to_device)
            yield Batch(epoch, index, n, rows, partial(_only, moved, rows))


def _rows(x: Tensor, y: Tensor, rows: slice) -> Samples:
    return (x, y) if rows.stop - rows.start == len(x) else (x[rows], y[rows])


def _only(samples: Samples, rows: slice, asked: slice) -> Samples:
    """``samples``, if exactly their ``rows`` are asked for."""
    if asked != rows:
        raise ValueError(f"rows: {asked}; allowed of a stream on this rank: {rows}")
    return samples
