"""The layout of a weight over processes.

Every layout in this package gives each process one contiguous range of a weight's row-major elements: a
replica all of them, FSDP2 and tensor parallelism full rows, ZeRO-3 a flat partition.
"""

import itertools
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, TypeGuard

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import zero_weights
from scaled_sgd.parallel.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


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
    """Offsets of ``torch.chunk``, which DTensor uses for Shard(0) over a mesh, shape (parts + 1,)."""
    size = -(-width // parts)
    return tuple(min(i * size, width) for i in range(parts + 1))


def is_sharded(weight: Tensor) -> "TypeGuard[DTensor]":
    """Whether ``weight`` is a DTensor."""
    return _is(weight, "torch.distributed.tensor", "DTensor")


def is_fsdp(module: nn.Module) -> "TypeGuard[FSDPModule]":
    """Whether FSDP2 shards the weights of ``module``."""
    return _is(module, "torch.distributed.fsdp", "FSDPModule")


def _is(value: object, module: str, name: str) -> bool:
    """Whether ``value`` has a class that nothing has before its module is imported, which takes a second."""
    imported = sys.modules.get(module)
    return imported is not None and isinstance(value, getattr(imported, name))


def is_whole(weight: Tensor) -> bool:
    """Whether this process holds the full ``weight`` as an ordinary tensor."""
    return not (is_sharded(weight) or zero_weights.is_partitioned(weight))


def is_replica(model: nn.Module) -> bool:
    """Whether this process holds every weight in full."""
    return all(is_whole(p) for p in model.parameters())


def local_shard(weight: Tensor) -> Tensor:
    """This process's part of ``weight``."""
    held: Tensor = weight.to_local() if is_sharded(weight) else weight
    return held.detach()


def like_shard(own: Tensor, like: Tensor) -> Tensor:
    """A DTensor in the layout of ``like`` whose part on this process is ``own``."""
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    return DTensor.from_local(
        own, like.device_mesh, like.placements, shape=like.shape, stride=like.stride(), run_check=False
    )


def awaits_reduction(model: nn.Module, layer: nn.Module) -> bool:
    """Whether FSDP2 holds a gradient of the weight of ``layer`` that it has not reduced yet.

    So it is between microbatches without synchronisation.
    """
    for module in (layer, *model.modules()):
        if not is_fsdp(module):
            continue
        for group in module._get_fsdp_state()._fsdp_param_groups:
            for held in group.fsdp_params:
                if held._module_info.module is layer and held._module_info.param_name == "weight":
                    gathered = getattr(held, "_unsharded_param", None)
                    return held.unsharded_accumulated_grad is not None or (
                        gathered is not None and gathered.grad is not None
                    )
    return False


def full_weight(weight: Tensor) -> Tensor:
    """The full weight of one layer, for any layout. Collective if it is sharded."""
    if is_sharded(weight):
        return weight.full_tensor().detach()
    if zero_weights.is_partitioned(weight):
        return zero_weights.gathered(weight)
    return weight.detach()


def row_order(weight: Tensor) -> tuple[int, ...] | None:
    """Global ranks in the order of the rows of ``weight`` that they hold; None if they do not hold full rows.

    On a mesh (data, tensor) rows are divided over tensor first, and each part over data.
    """
    if not is_sharded(weight):
        return None
    mesh = weight.device_mesh
    if mesh.ndim > 2 or any(getattr(placement, "dim", None) != 0 for placement in weight.placements):
        return None
    return _members(mesh)


@lru_cache(maxsize=8)
def _members(mesh: DeviceMesh) -> tuple[int, ...]:
    """Its global ranks, the last dimension first. Kept, since a mesh computes its tensor at every look."""
    return tuple(mesh.mesh.permute(*reversed(range(mesh.ndim))).flatten().tolist())


def row_offsets(weight: Tensor) -> tuple[int, ...]:
    """Offsets of the rows held by the processes of :func:`row_order`, shape (processes + 1,)."""
    assert is_sharded(weight)
    *data, tensor = weight.device_mesh.shape
    offsets = [0]
    for start, stop in itertools.pairwise(chunk_offsets(weight.shape[0], tensor)):
        offsets += [start + offset for offset in chunk_offsets(stop - start, *(data or [1]))[1:]]
    return tuple(offsets)


def holds_rows(weight: Tensor, ranks: Ranks) -> bool:
    """Whether the ``ranks``, in this order, hold full rows."""
    return row_order(weight) == ranks.members


def row_range(weight: Tensor) -> tuple[int, int]:
    """First row of a row-sharded weight on this process, and one past the last; all rows of a replica.

    Raises:
        UserError: the weight has another layout.
    """
    if not is_sharded(weight):
        return 0, len(weight)
    order = row_order(weight)
    if order is None:
        raise UserError(f"model: a weight laid out as {weight.placements}; allowed: replicas and row shards")
    place = order.index(dist.get_rank())
    offsets = row_offsets(weight)
    return offsets[place], offsets[place + 1]
