"""How the rows of a network's weights lie over processes, behind one class (theory §6).

Every process works on a slice of the rows of each W_k, which is a slice of the columns of z_k. Samples
and activations move between processes, weights never do when a process already holds whole rows.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scaled_sgd.errors import UserError
from scaled_sgd.model import HomogeneousMLP

if dist.is_available():
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor, Shard


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, ``torch.compile`` and DeepSpeed's engine."""
    while True:
        wraps = isinstance(model, DistributedDataParallel) or type(model).__name__ == "DeepSpeedEngine"
        inner: object = model.module if wraps else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def even_offsets(width: int, parts: int) -> tuple[int, ...]:
    """Offsets of ``parts`` contiguous slices whose sizes differ by at most one, shape (parts + 1,)."""
    return tuple(width * i // parts for i in range(parts + 1))


def chunk_offsets(width: int, parts: int) -> tuple[int, ...]:
    """Offsets of ``torch.chunk``, which is how DTensor lays Shard(0) over a mesh, shape (parts + 1,)."""
    size = -(-width // parts)
    return tuple(min(i * size, width) for i in range(parts + 1))


class Ranks:
    """The processes that share a minibatch; one process when torch.distributed is not initialised."""

    def __init__(self, group: "dist.ProcessGroup | None" = None) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        self.group = group
        self.size = dist.get_world_size(group) if distributed else 1
        self.rank = dist.get_rank(group) if distributed else 0

    @classmethod
    def alone(cls) -> "Ranks":
        """This process by itself, whatever the others do."""
        ranks = cls()
        ranks.size, ranks.rank = 1, 0
        return ranks

    def sum(self, t: Tensor) -> Tensor:
        """Sum ``t`` over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(t, group=self.group)
        return t

    def gather(self, t: Tensor, sizes: list[int]) -> Tensor:
        """Concatenate every process's ``t`` along dimension 0; process i brings ``sizes[i]`` rows."""
        return self.gather_later(t, sizes)()

    def gather_later(self, t: Tensor, sizes: list[int]) -> Callable[[], Tensor]:
        """Start :meth:`gather`; the result waits for it."""
        if self.size == 1:
            return lambda: t
        longest = max(sizes)
        padded = t.contiguous()
        if len(t) < longest:
            padded = t.new_zeros((longest, *t.shape[1:]))
            padded[: len(t)] = t
        everything = t.new_empty((self.size * longest, *t.shape[1:]))
        blocks = list(torch.split(everything, longest))
        work = dist.all_gather(blocks, padded, group=self.group, async_op=True)

        def gathered() -> Tensor:
            work.wait()
            if min(sizes) == longest:
                return everything
            return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])

        return gathered

    def counts(self, n: int, device: torch.device) -> list[int]:
        """Every process's ``n``."""
        if self.size == 1:
            return [n]
        mine = torch.tensor([n], device=device)
        return [int(count) for count in self.gather(mine, [1] * self.size).tolist()]

    def gather_samples(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The global minibatch, in the order of ranks, from every process's part of any size, 0 too.

        Raises:
            UserError: the minibatch is empty.
        """
        sizes = self.counts(len(x), x.device)
        if sum(sizes) == 0:
            raise UserError("x: no samples on any process; allowed: at least one")
        return self.gather(x, sizes), self.gather(y, sizes)


@dataclass(frozen=True)
class Partition:
    """A network with the slice of rows of every W_k that this process works on.

    A replica is cut evenly. The local rows of an FSDP2 or column-wise tensor-parallel shard (a DTensor
    with Shard(0) over all processes) are taken as they lie. Any other layout (row-wise shards, meshes
    of several dimensions, ZeRO-3) is gathered one layer at a time and cut evenly.

    Attributes:
        model: the network, unwrapped.
        ranks: the processes.
        offsets: for each k = 0..l, where the slices of the m_k columns begin and end.
        dtype: of all computations: the weights' own, float32 for narrower ones.
    """

    model: HomogeneousMLP
    ranks: Ranks
    offsets: tuple[tuple[int, ...], ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, model: nn.Module, *, ranks: Ranks | None = None) -> "Partition":
        """The partition of ``model`` as it lies now over ``ranks``, all processes when None.

        Raises:
            UserError: the model is not a HomogeneousMLP.
        """
        network = unwrap(model)
        if not isinstance(network, HomogeneousMLP):
            raise UserError(f"model: {type(network).__name__} is not available here; allowed: HomogeneousMLP")
        ranks = Ranks() if ranks is None else ranks
        if dist.is_available():
            for module in network.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()
        weights = [layer.weight for layer in network.scaled_layers]
        offsets = [even_offsets(network.widths[0], ranks.size)]
        for width, weight in zip(network.widths[1:], weights, strict=True):
            cut = chunk_offsets if holds_rows(weight, ranks) else even_offsets
            offsets.append(cut(width, ranks.size))
        return cls(network, ranks, tuple(offsets), torch.promote_types(weights[0].dtype, torch.float32))

    @property
    def depth(self) -> int:
        """Number of weight matrices l."""
        return len(self.offsets) - 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.scaled_layers[0].weight.device

    def columns(self, k: int) -> slice:
        """This process's slice of the m_k columns of z_k, which are the rows of W_k."""
        return slice(self.offsets[k][self.ranks.rank], self.offsets[k][self.ranks.rank + 1])

    def width(self, k: int) -> int:
        """How many columns of z_k are this process's."""
        own = self.columns(k)
        return int(own.stop - own.start)

    def multiplier(self, k: int) -> float:
        """α_k."""
        return self.model.scaled_layers[k - 1].multiplier

    def local(self, k: int) -> Tensor:
        """This process's rows of W_k, shape (width(k), m_{k−1}): a view where possible."""
        weight = self.model.scaled_layers[k - 1].weight
        if holds_rows(weight, self.ranks):
            return local_shard(weight).to(self.dtype)
        return full_weight(weight)[self.columns(k)].to(self.dtype)

    def own(self, t: Tensor, k: int) -> Tensor:
        """This process's columns of ``t`` (…, m_k), a view."""
        return t if self.ranks.size == 1 else t[..., self.columns(k)]

    def gather(self, t: Tensor, k: int) -> Tensor:
        """The full (n, m_k) tensor from every process's columns."""
        if self.ranks.size == 1:
            return t
        return self.ranks.gather(t.T, [b - a for a, b in itertools.pairwise(self.offsets[k])]).T.contiguous()

    def sum(self, t: Tensor) -> Tensor:
        """Sum ``t`` over the processes, in place."""
        return self.ranks.sum(t)


def is_sharded(weight: Tensor) -> bool:
    """Whether ``weight`` is a DTensor, of which a process holds a part."""
    return dist.is_available() and isinstance(weight, DTensor)


def is_replica(model: nn.Module) -> bool:
    """Whether this process holds every weight whole."""
    return not any(is_sharded(p) or hasattr(p, "ds_id") for p in model.parameters())


def local_shard(weight: Tensor) -> Tensor:
    """What this process holds of ``weight``."""
    held: Tensor = weight.to_local() if dist.is_available() and isinstance(weight, DTensor) else weight
    return held.detach()


def like_shard(own: Tensor, like: Tensor) -> Tensor:
    """A DTensor in the layout of ``like`` whose part on this process is ``own``."""
    assert isinstance(like, DTensor)
    return DTensor.from_local(
        own, like.device_mesh, like.placements, shape=like.shape, stride=like.stride(), run_check=False
    )


def full_weight(weight: Tensor) -> Tensor:
    """The whole of one layer's weight, whatever its layout. Collective when it is sharded."""
    if dist.is_available() and isinstance(weight, DTensor):
        return weight.full_tensor().detach()
    if hasattr(weight, "ds_id"):
        return _gathered_by_deepspeed(weight)
    return weight.detach()


def holds_rows(weight: Tensor, ranks: Ranks) -> bool:
    """Whether the mesh is all processes in their order and each holds whole rows."""
    if not (dist.is_available() and isinstance(weight, DTensor)):
        return False
    mesh = weight.device_mesh.mesh
    members = dist.get_process_group_ranks(ranks.group or dist.group.WORLD)
    return mesh.ndim == 1 and mesh.tolist() == members and weight.placements == (Shard(0),)


def _gathered_by_deepspeed(weight: Any) -> Tensor:
    from deepspeed import zero

    with zero.GatheredParameters([weight]):
        whole: Tensor = weight.detach().clone()
    return whole
