"""Groups of processes, and the collectives between them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scaled_sgd.core.errors import UserError


def _collective(name: str, before: str) -> Callable[..., Any]:
    """A function of torch.distributed by its name or its name before torch 2.13."""
    found: Callable[..., Any] = getattr(dist, name, None) or getattr(dist, before)
    return found


if dist.is_available():
    _all_gather = _collective("all_gather_single", "all_gather_into_tensor")
    _reduce_scatter = _collective("reduce_scatter_single", "reduce_scatter_tensor")


class Ranks:
    """The processes that share a minibatch; one process if torch.distributed is not initialised.

    Args:
        group: a process group; the default group if None.
        order: order of the processes' parts, as global ranks; the order of the group if None.
    """

    def __init__(
        self, group: "dist.ProcessGroup | None" = None, *, order: Sequence[int] | None = None
    ) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        self.group = group
        members = tuple(dist.get_process_group_ranks(group or dist.group.WORLD)) if distributed else (0,)
        self.members = members if order is None else tuple(order)
        self._places = [self.members.index(rank) for rank in members]
        self.size = len(members)
        self.rank = self.members.index(dist.get_rank()) if distributed else 0

    @classmethod
    def alone(cls) -> "Ranks":
        """Only this process."""
        ranks = cls()
        ranks.members, ranks.size, ranks.rank = (ranks.members[ranks.rank],), 1, 0
        return ranks

    def backend(self, device: torch.device) -> str:
        """The name of what moves tensors of ``device`` between several processes, such as nccl."""
        pairs = (pair.split(":") for pair in dist.get_backend_config(self.group).split(","))
        return dict(pairs)[device.type]

    def sum(self, t: Tensor) -> Tensor:
        """Sum ``t`` over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(t, group=self.group)
        return t

    def gather(self, t: Tensor, sizes: list[int]) -> Tensor:
        """Concatenate every process's ``t`` along dimension 0; process i contributes ``sizes[i]`` rows."""
        return self.gather_later(t, sizes)()

    def gather_later(self, t: Tensor, sizes: list[int]) -> Callable[[], Tensor]:
        """Start :meth:`gather`; calling the result waits for it."""
        if self.size == 1:
            return lambda: t
        longest = max(sizes)
        padded = t.contiguous()
        if len(t) < longest:
            padded = t.new_zeros((longest, *t.shape[1:]))
            padded[: len(t)] = t
        everything = t.new_empty((self.size * longest, *t.shape[1:]))
        blocks = list(torch.split(everything, longest))
        if self._places == list(range(self.size)):
            work = _all_gather(everything, padded, group=self.group, async_op=True)
        else:
            by_rank = [blocks[place] for place in self._places]
            work = dist.all_gather(by_rank, padded, group=self.group, async_op=True)

        def gathered() -> Tensor:
            work.wait()
            if min(sizes) == longest:
                return everything
            return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])

        return gathered

    def sum_and_cut(self, t: Tensor, sizes: list[int]) -> Tensor:
        """Sum the processes' ``t`` and keep this one's ``sizes[rank]`` rows: the adjoint of a gather."""
        if self.size == 1:
            return t
        longest = max(sizes)
        blocks = t.new_zeros((self.size, longest, *t.shape[1:]))
        parts = torch.split(t, sizes)
        for block, place in zip(blocks, self._places, strict=True):
            block[: sizes[place]] = parts[place]
        kept = t.new_empty((longest, *t.shape[1:]))
        _reduce_scatter(kept, blocks.flatten(0, 1), group=self.group)
        return kept[: sizes[self.rank]]

    def counts(self, n: int, device: torch.device) -> list[int]:
        """Every process's ``n``."""
        if self.size == 1:
            return [n]
        mine = torch.tensor([n], device=device)
        return [int(count) for count in self.gather(mine, [1] * self.size).tolist()]

    def gather_samples(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The global minibatch, in the order of ranks, from the processes' parts, which may be empty.

        Raises:
            UserError: the minibatch is empty.
        """
        by_rank = self if self.size == 1 else Ranks(self.group)
        sizes = by_rank.counts(len(x), x.device)
        if sum(sizes) == 0:
            raise UserError("x: no samples on any process; allowed: at least one")
        return by_rank.gather(x, sizes), by_rank.gather(y, sizes)
