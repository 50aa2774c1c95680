"""Decides which rank writes what: in every layout, ranks hold contiguous ranges of flat tensors.

A replica, full rows of a matrix, a block of rows on a mesh and a flat partition are each one range of the
row-major flattening. From the ranges of all ranks, every rank computes the same division of each tensor
into disjoint extents, so that nothing is written twice and nothing is missing.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from scaled_sgd.parallel import even_offsets
from scaled_sgd.runs.checkpoint.dtypes import code_of


@dataclass(frozen=True)
class Claim:
    """The statement that a rank holds the elements ``start`` to ``stop`` of a flat tensor.

    Attributes:
        name: name of the tensor, the same on all ranks.
        shape: shape of the full tensor.
        dtype: code in the file format, such as F32.
        start: first element held.
        stop: one past the last element held.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    stop: int


@dataclass(frozen=True)
class Piece:
    """One contiguous range of the row-major flattening of a tensor, with its values.

    Attributes:
        name: name of the tensor, such as ``weight.1``.
        shape: shape of the full tensor.
        start: offset of the range in the flat tensor.
        values: shape (n,), on any device; n = 0 holds nothing.

    Raises:
        ValueError: ``values`` is not flat, has an unsupported dtype, or exceeds the tensor.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor

    def __post_init__(self) -> None:
        code_of(self.values.dtype)
        if self.values.ndim != 1:
            raise ValueError(f"{self.name}: values have {self.values.ndim} dimensions; allowed: 1")
        if not 0 <= self.start <= self.stop <= math.prod(self.shape):
            raise ValueError(f"{self.name}: {self.start} to {self.stop} is not inside shape {self.shape}")

    @property
    def stop(self) -> int:
        """One past the last element."""
        return self.start + self.values.numel()

    @property
    def claim(self) -> Claim:
        """The range without its values."""
        return Claim(self.name, tuple(self.shape), code_of(self.values.dtype), self.start, self.stop)


@dataclass(frozen=True)
class Extent:
    """A range of a flat tensor that rank ``rank`` writes."""

    start: int
    stop: int
    rank: int


@dataclass(frozen=True)
class Layout:
    """The layout of a stored tensor: ``extents`` are in order and tile the flat tensor."""

    shape: tuple[int, ...]
    dtype: str
    extents: tuple[Extent, ...]


def plan(claims: Sequence[Sequence[Claim]]) -> dict[str, Layout]:
    """Plan from all ranks' claims who writes what: a range that several ranks hold is divided evenly.

    Raises:
        ValueError: a tensor has a gap, or ranks disagree about its shape or dtype.
    """
    by_name: dict[str, list[tuple[int, Claim]]] = defaultdict(list)
    for rank, own in enumerate(claims):
        for claim in own:
            by_name[claim.name].append((rank, claim))
    return {name: _layout(name, by_name[name]) for name in sorted(by_name)}


def extents_of(layouts: Mapping[str, Layout], rank: int) -> list[tuple[str, Extent]]:
    """Names and extents that ``rank`` writes."""
    return [(name, e) for name, layout in layouts.items() for e in layout.extents if e.rank == rank]


def values_in(pieces: Sequence[Piece], name: str, extent: Extent) -> Tensor:
    """The values of ``extent`` from the piece that holds them, a view of shape (stop − start,)."""
    for piece in pieces:
        if piece.name == name and piece.start <= extent.start and extent.stop <= piece.stop:
            return piece.values[extent.start - piece.start : extent.stop - piece.start]
    raise ValueError(f"{name}: no piece holds {extent.start} to {extent.stop}")


def _layout(name: str, claims: Sequence[tuple[int, Claim]]) -> Layout:
    _, first = claims[0]
    if any((claim.shape, claim.dtype) != (first.shape, first.dtype) for _, claim in claims):
        seen = sorted({f"{claim.dtype} {claim.shape}" for _, claim in claims})
        raise ValueError(f"{name}: ranks disagree about its type and shape: {', '.join(seen)}")
    count = math.prod(first.shape)
    changes: dict[int, Counter[int]] = defaultdict(Counter, {0: Counter(), count: Counter()})
    for rank, claim in claims:
        changes[claim.start][rank] += 1
        changes[claim.stop][rank] -= 1
    extents: list[Extent] = []
    holding: Counter[int] = Counter()
    for start, stop in itertools.pairwise(sorted(changes)):
        for rank, change in changes[start].items():
            holding[rank] += change
            if holding[rank] == 0:
                del holding[rank]
        if not holding:
            raise ValueError(f"{name}: no rank holds numbers {start} to {stop} of {count}")
        holders = sorted(holding)
        cuts = itertools.pairwise(even_offsets(stop - start, len(holders)))
        extents += [Extent(start + a, start + b, r) for r, (a, b) in zip(holders, cuts, strict=True) if a < b]
    return Layout(first.shape, first.dtype, tuple(extents))
