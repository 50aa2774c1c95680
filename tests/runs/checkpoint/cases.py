"""Tensors whose numbers tell their step, and the ways that layouts cut them into pieces."""

import math

import torch
from torch import Tensor

from scaled_sgd.parallel import chunk_offsets, even_offsets
from scaled_sgd.runs.checkpoint import Checkpoint, Piece

SHAPES = {
    "weight.1": ((6, 5), torch.float64),
    "weight.2": ((7, 6), torch.bfloat16),
    "momentum.1": ((6, 5), torch.float32),
    "order": ((11,), torch.int64),
    "seen": ((3, 2, 2), torch.uint8),
    "scalar": ((), torch.float64),
    "nothing": ((0, 4), torch.float32),
}


def whole(step: int) -> dict[str, Tensor]:
    """Tensors of a step, flat."""
    g = torch.Generator().manual_seed(step)
    return {
        name: torch.randint(0, 200, (math.prod(shape),), generator=g).to(dtype)
        / (1 if dtype in INTEGERS else 7)
        for name, (shape, dtype) in SHAPES.items()
    }


INTEGERS = (torch.int64, torch.uint8)


def ranges(layout: str, name: str, rank: int, size: int) -> list[tuple[int, int]]:
    """What ``rank`` of ``size`` holds of a tensor under a layout: replica, rows, mesh or flat."""
    shape, _ = SHAPES[name]
    count = math.prod(shape)
    if layout == "replica" or not shape:
        return [(0, count)]
    if layout == "flat":
        offsets = even_offsets(count, size)
        return [(offsets[rank], offsets[rank + 1])]
    across = size if layout == "rows" else size // 2
    row = math.prod(shape[1:])
    offsets = chunk_offsets(shape[0], across)
    part = rank % across
    return [(offsets[part] * row, offsets[part + 1] * row)]


def pieces(tensors: dict[str, Tensor], layout: str, rank: int = 0, size: int = 1) -> list[Piece]:
    """A rank's pieces."""
    return [
        Piece(name, SHAPES[name][0], start, t[start:stop])
        for name, t in tensors.items()
        for start, stop in ranges(layout, name, rank, size)
    ]


def assert_holds(checkpoint: Checkpoint, step: int, *, seed: int | None = None) -> None:
    """The checkpoint is of ``step`` and has exactly the tensors of ``seed``, the step when None."""
    assert checkpoint.step == step
    expected = whole(step if seed is None else seed)
    assert set(checkpoint.names) == set(expected)
    for name, t in expected.items():
        assert checkpoint.shape(name) == SHAPES[name][0]
        read = checkpoint.read(name, 0, t.numel())
        assert read.dtype == t.dtype
        assert torch.equal(read, t)
