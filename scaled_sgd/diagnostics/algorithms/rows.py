"""Stores a Krylov basis: a growing matrix of a few long rows."""

import torch
from torch import Tensor

GROUP_BYTES = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Most bytes of a group of several rows. A GPU takes one launch for each group."""


class Rows:
    """Up to ``capacity`` rows of ``length`` elements, allocated in groups on first use.

    Lanczos that converges early never allocates the rest, and groups of moderate size come from the
    allocator's pool, whereas one large matrix would be mapped again, page by page, in every call.
    """

    def __init__(self, capacity: int, length: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.capacity = capacity
        self._length = length
        self._like = torch.empty(0, dtype=dtype, device=device)
        row_bytes = max(1, length * torch.finfo(dtype).bits // 8)
        most = GROUP_BYTES["cpu" if device.type == "cpu" else "cuda"]
        self._group = max(1, min(capacity, most // row_bytes))
        self._groups: list[Tensor] = []

    def __getitem__(self, i: int) -> Tensor:
        while i // self._group >= len(self._groups):
            size = min(self._group, self.capacity - self._group * len(self._groups))
            self._groups.append(self._like.new_empty(size, self._length))
        return self._groups[i // self._group][i % self._group]

    def _parts(self, first: int, stop: int) -> list[tuple[slice, Tensor]]:
        """The rows from ``first`` to ``stop``, group by group, each with its offset from ``first``."""
        parts = []
        for g, group in enumerate(self._groups):
            start, end = max(first, g * self._group), min(stop, (g + 1) * self._group)
            if start < end:
                rows = group[start - g * self._group : end - g * self._group]
                parts.append((slice(start - first, end - first), rows))
        return parts

    def dots(self, v: Tensor, out: Tensor) -> None:
        """Inner products of the first len(out) rows with ``v``, into ``out``."""
        for place, rows in self._parts(0, len(out)):
            torch.mv(rows, v, out=out[place])

    def subtract(self, w: Tensor, weights: Tensor, *, first: int = 0) -> None:
        """``w`` −= Σ weights_i row_{first+i}, in place."""
        for place, rows in self._parts(first, first + len(weights)):
            if len(rows) == 1:
                # A product with a single row is a slow kernel on a GPU.
                w.addcmul_(rows[0], weights[place], value=-1)
            else:
                w.addmv_(rows.T, weights[place], alpha=-1)

    def combine(self, weights: Tensor) -> Tensor:
        """Weights (k, count) times the first ``count`` rows: (k, length)."""
        combined = self._like.new_zeros(len(weights), self._length)
        for place, rows in self._parts(0, weights.shape[1]):
            combined.addmm_(weights[:, place], rows)
        return combined

    def rotate(self, weights: Tensor) -> None:
        """The first k rows ← weights (k, count) times the first ``count`` rows, in blocks of columns."""
        step = max(1, (1 << 20) // self.capacity)
        for start in range(0, self._length, step):
            columns = slice(start, start + step)
            old = torch.cat([rows[:, columns] for _, rows in self._parts(0, weights.shape[1])])
            new = weights @ old
            for place, rows in self._parts(0, len(weights)):
                rows[:, columns] = new[place]
