"""Which strategy a run takes, and whether this launch can do it."""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from scaled_sgd.errors import UserError
from scaled_sgd.machine import host_memory
from scaled_sgd.strategies.config import ShardingConfig
from scaled_sgd.strategies.launched import launched_strategy

if TYPE_CHECKING:
    from accelerate import Accelerator

ZERO = {"zero1": 1, "zero2": 2, "zero3": 3}
SHARDED = ("fsdp2", "zero3", "tensor", "fsdp2+tensor")
"""Strategies under which a process holds a part of the weights."""

_SHARE_OF_MEMORY = 0.5
"""``auto`` takes replicas while weights, gradients and momentum fill at most so much of the memory."""


@dataclass(frozen=True)
class World:
    """What a launch gave.

    Attributes:
        size: number of processes.
        local_size: of them on this machine.
        cuda: whether each has a GPU of its own.
        memory: bytes a process may fill.
        launched: the strategy that the launcher's configuration file names; None: any.
    """

    size: int
    local_size: int
    cuda: bool
    memory: int
    launched: str | None = None

    @classmethod
    def of(cls, accelerator: "Accelerator") -> "World":
        """The world that an accelerator found.

        Raises:
            UserError: it was launched with a version of FSDP, or a stage of ZeRO, that is none of ours.
        """
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cuda = accelerator.device.type == "cuda"
        memory = torch.cuda.mem_get_info()[1] if cuda else host_memory() // local
        return cls(accelerator.num_processes, local, cuda, memory, launched_strategy(accelerator))


def choose(sharding: ShardingConfig, world: World, state_bytes: int) -> ShardingConfig:
    """The section with ``auto`` decided, and the rest checked.

    Args:
        sharding: as configured.
        world: as launched.
        state_bytes: of weights, gradients and momentum of the whole network.

    Raises:
        UserError: the launch cannot do what is asked for.
    """
    name: str = sharding.strategy
    if name == "auto":
        fits = world.size == 1 or state_bytes <= _SHARE_OF_MEMORY * world.memory
        name = world.launched or ("ddp" if fits else "fsdp2")
    if world.launched is not None and name != world.launched:
        raise UserError(
            f"sharding.strategy: {name!r} was asked for and {world.launched!r} launched; allowed: auto, "
            f"{world.launched}, or a launch without DeepSpeed and FSDP"
        )
    chosen = replace(sharding, strategy=name)  # type: ignore[arg-type]
    tensor_processes(chosen, world)
    return chosen


def tensor_processes(sharding: ShardingConfig, world: World) -> int:
    """How many processes share each layer; 1 where none do.

    Raises:
        UserError: the number that is configured does not fit the strategy or the world.
    """
    asked, name = sharding.tensor_processes, sharding.strategy
    if name != "fsdp2+tensor":
        if asked is not None:
            raise UserError(
                f"sharding.tensor_processes: {asked} does not fit sharding.strategy {name}; allowed: null"
            )
        return world.size if name == "tensor" else 1
    if asked is None:
        several = 1 < world.local_size < world.size
        asked = world.local_size if several else 2 if world.size % 2 == 0 else 1
    if world.size % asked:
        divisors = [str(d) for d in range(1, world.size + 1) if world.size % d == 0]
        raise UserError(
            f"sharding.tensor_processes: {asked} does not divide the {world.size} processes; allowed: "
            f"{', '.join(divisors)}"
        )
    return asked


def bytes_per_process(sharding: ShardingConfig, world: World, state_bytes: int, largest: int) -> float:
    """What weights, gradients and momentum take of a process, at least.

    Args:
        sharding: resolved.
        world: as launched.
        state_bytes: of the whole network.
        largest: bytes of the weights of its largest layer, which FSDP2 and ZeRO-3 gather with their gradient.
    """
    if sharding.strategy not in SHARDED:
        return state_bytes
    if sharding.strategy == "tensor" or world.size == 1:
        return state_bytes / world.size
    return state_bytes / world.size + 2 * largest / tensor_processes(sharding, world)
