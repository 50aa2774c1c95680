"""What one process holds of each layer: what checkpoints, clipping and start-up see of a network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaled_sgd.core.network import HomogeneousMLP, initial_rows
from scaled_sgd.parallel import Partition
from scaled_sgd.parallel.layout import local_shard, row_range
from scaled_sgd.parallel.ranks import Ranks
from scaled_sgd.steps.statistics import square_norm

Kind = str
"""``weight``, or what checkpoints call a tensor that the optimizer keeps, such as ``momentum``."""
Read = Callable[[int, int], Tensor]
"""Numbers start..stop of a row-major W_k or of what is kept of it, shape (stop − start,), on the CPU."""

READ_ELEMENTS = 1 << 21
"""Numbers read at a time."""


class Shard(Protocol):
    """One layer's numbers ``start`` to ``stop`` in row-major order, which live on this process.

    Attributes:
        k: the layer, from 1.
        shape: of W_k.
        start: the first number held here.
        stop: one past the last.
        copies: how many processes hold these numbers.
    """

    k: int
    shape: tuple[int, int]
    start: int
    stop: int
    copies: int

    def values(self, kind: Kind) -> Tensor | None:
        """The weights, or what the optimizer keeps of them, a flat view; None where there is none."""
        ...

    def gradient(self) -> Tensor | None:
        """Their gradient after the step's last backward pass, flat; None without one."""
        ...

    def scale_gradient(self, factor: Tensor) -> None:
        """Multiply it by ``factor`` ()."""
        ...

    def fill(self, kind: Kind, read: Read) -> None:
        """Replace them by what ``read`` gives. Every process reads what it holds and nothing moves."""
        ...


class RowShard:
    """A replica, or whole rows of a DTensor, trained by a ``torch.optim`` optimizer.

    Raises:
        UserError: the weight lies otherwise.
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
        """The weights, or what the optimizer keeps of them, a flat view."""
        if kind == "weight":
            return local_shard(self._weight).view(-1)
        buffer = self._optimizer.state.get(self._weight, {}).get(self._kept.get(kind, ""))
        return None if buffer is None else local_shard(buffer).view(-1)

    def gradient(self) -> Tensor | None:
        """Their gradient, flat."""
        return None if self._weight.grad is None else local_shard(self._weight.grad).view(-1)

    def scale_gradient(self, factor: Tensor) -> None:
        """Multiply it by ``factor`` ()."""
        gradient = self.gradient()
        if gradient is not None:
            gradient.mul_(factor.to(gradient.dtype))

    def fill(self, kind: Kind, read: Read) -> None:
        """Replace them by what ``read`` gives."""
        if kind != "weight":
            self._optimizer.state[self._weight][self._kept[kind]] = torch.zeros_like(self._weight)
        held = self.values(kind)
        assert held is not None
        copy_range(held, self.start, read)


def momentum_rows(shards: Sequence[Shard], partition: Partition) -> Callable[[int], Tensor | None]:
    """This process's rows of v_k before a step, by k; None where it is still zero. Collective."""

    def rows(k: int) -> Tensor | None:
        shard, own = shards[k - 1], partition.columns(k)
        fan_in = shard.shape[1]
        values = shard.values("momentum")
        if isinstance(shard, RowShard):
            if values is None:
                return None
            first = shard.start // fan_in
            return values.view(-1, fan_in)[own.start - first : own.stop - first]
        # Flat parts lie across rows: all processes' are added up, a layer at a time.
        whole = torch.zeros(shard.shape[0] * fan_in, dtype=torch.float32, device=partition.device)
        if values is not None:
            whole[shard.start : shard.stop] = values
        return partition.sum(whole).view(shard.shape)[own]

    return rows


def copy_range(target: Tensor, start: int, read: Read) -> None:
    """Fill ``target`` (count,) with the numbers from ``start`` on, some at a time."""
    for first in range(0, len(target), READ_ELEMENTS):
        part = target[first : first + READ_ELEMENTS]
        part.copy_(read(start + first, start + first + len(part)))


def initial_values(network: HomogeneousMLP, k: int) -> Read:
    """W_k at step 0, of which any range can be made by itself."""
    layer = network.scaled_layers[k - 1]
    fan_in = layer.in_features

    def read(start: int, stop: int) -> Tensor:
        first, last = start // fan_in, -(-stop // fan_in)
        rows = initial_rows(network.seed, k, first, last, fan_in, layer.init_std)
        return rows.view(-1)[start - first * fan_in : stop - first * fan_in]

    return read


def gradient_squares(shards: Sequence[Shard], device: torch.device) -> Tensor:
    """‖G_k‖_F² (l,) in float64. Collective where gradients are in parts."""
    ranks = Ranks()
    squares = torch.zeros(len(shards), dtype=torch.float64, device=device)
    for place, shard in enumerate(shards):
        gradient = shard.gradient()
        if gradient is not None:
            squares[place] = square_norm(gradient) / shard.copies
    whole = all(shard.copies == ranks.size for shard in shards)
    return squares * ranks.size if whole else ranks.sum(squares)
