"""Minibatch losses of all steps, read from the device only when needed."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scaled_sgd.parallel import Ranks

_MOST_WAITING = 1024
"""Largest number of unread losses on the device."""


class Losses:
    """The last and the largest minibatch loss of each of B networks.

    If reading a number needs the device or other processes, losses stay on the device until they are read.

    Args:
        ranks: the processes with sums over different samples of a minibatch.
        on_cpu: whether losses are on the CPU.
        largest: largest loss of each network so far, -inf if unknown.

    Attributes:
        live: whether every loss is available immediately.
        last: loss of the last step that was read (B,).
        largest: largest loss of all steps that were read (B,); nan if one was nan.
    """

    def __init__(self, ranks: Ranks, *, on_cpu: bool, largest: Sequence[float]) -> None:
        self._ranks = ranks
        self.live = on_cpu and ranks.size == 1
        self.largest = list(largest)
        self.last = [math.nan for _ in largest]
        self._waiting: list[Tensor] = []
        self._sizes: list[int] = []

    def add(self, loss: Tensor, n: int) -> None:
        """Add the sum of this process's losses, () or (B,), of a minibatch of ``n`` samples. Collective."""
        if self.live:
            self._take([total / n for total in loss.tolist()] if loss.ndim else [loss.item() / n])
            return
        self._waiting.append(loss)
        self._sizes.append(n)
        if len(self._waiting) == _MOST_WAITING:
            self.read()

    def read(self) -> None:
        """Read all losses. Collective."""
        if not self._waiting:
            return
        totals = self._ranks.sum(torch.stack(self._waiting).reshape(len(self._waiting), -1))
        for row, n in zip(totals.tolist(), self._sizes, strict=True):
            self._take([total / n for total in row])
        self._waiting, self._sizes = [], []

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with some networks only."""
        self.read()
        self.last, self.largest = ([numbers[row] for row in rows] for numbers in (self.last, self.largest))

    @property
    def finite(self) -> list[bool]:
        """Whether all losses of each network that were read are finite."""
        return [loss < math.inf for loss in self.largest]

    def _take(self, means: list[float]) -> None:
        self.last = means
        self.largest = [
            mean if math.isnan(mean) else max(most, mean)
            for most, mean in zip(self.largest, means, strict=True)
        ]
