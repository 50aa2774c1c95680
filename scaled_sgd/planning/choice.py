"""Which strategy a run takes, and whether this launch can do it."""

import math
from dataclasses import dataclass, replace

from scaled_sgd.config import Config, ShardingConfig
from scaled_sgd.config.combinations import permits, with_strategy, with_update
from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning import Cluster, Cost, Load, advise, nominal, predict

ZERO = {can.name: can.zero_stage for can in STRATEGIES.entries if can.zero_stage is not None}
NATIVE = tuple(can.name for can in STRATEGIES.entries if can.zero_stage is None)
"""What ``auto`` chooses from: strategies that need no other launch."""


@dataclass(frozen=True)
class World:
    """What a launch gave.

    Attributes:
        size: number of processes.
        local_size: of them on this machine.
        cuda: whether each has a GPU of its own.
        memory: bytes a process may fill.
        launched: the strategy that the launcher's configuration file names; None: any.
        launched_half: whether it gathers weights in 16 bits.
    """

    size: int
    local_size: int
    cuda: bool
    memory: int
    launched: str | None = None
    launched_half: bool = False


def choose(config: Config, world: World, load: Load) -> ShardingConfig:
    """The section with ``auto`` decided, and the rest checked.

    ``auto`` is what the launcher names, ``ddp`` on one process, else what :mod:`scaled_sgd.planning` advises
    for nominal rates: nothing is measured, so that every process of every launch decides alike.

    Args:
        config: with the section as configured.
        world: as launched.
        load: what a step works on.

    Raises:
        UserError: the launch cannot do what is asked for.
    """
    sharding = config.sharding
    name: str = sharding.strategy
    if name == "auto":
        name = world.launched or ("ddp" if world.size == 1 else _advised(config, world, load))
    if world.launched is not None and name != world.launched:
        raise UserError(
            f"sharding.strategy: {name!r} was asked for and {world.launched!r} launched; allowed: auto, "
            f"{world.launched}, or a launch without DeepSpeed and FSDP"
        )
    chosen = replace(sharding, strategy=name)
    tensor_processes(chosen, world)
    return chosen


def predicted(name: str, config: Config, world: World, load: Load) -> Cost:
    """What a step under a strategy by name is predicted to take of each process.

    Raises:
        UserError: the configured number of processes that share a layer does not fit.
    """
    config = with_update(with_strategy(config, name))
    parts = tensor_processes(config.sharding, world)
    planned = name
    if config.optim.update == "fused":
        planned = "ddp+fused" if name == "ddp" else "fsdp2+fused"
    return predict(planned, load, cluster_of(world, half=load.half), parts=parts)


def cluster_of(world: World, *, half: bool) -> Cluster:
    """A launch with nominal rates."""
    cluster = nominal("cuda" if world.cuda else "cpu", half=half)
    return replace(cluster, ranks=world.size, per_machine=world.local_size, memory=world.memory)


def _advised(config: Config, world: World, load: Load) -> str:
    """The fastest native strategy that fits, else the one that needs least."""
    names = [name for name in NATIVE if permits(config, name)] or ["ddp"]
    costs = {}
    for name in names:
        parts = tensor_processes(replace(config.sharding, strategy=name), world)
        if name != "fsdp2+tensor" or len(names) == 1 or 1 < parts < world.size:
            costs[name] = predicted(name, config, world, load)
    advice = advise(list(costs.values()), cluster_of(world, half=load.half))
    least = min(costs.values(), key=lambda cost: cost.peak_bytes)
    taken = advice.cost or least
    return next(name for name, cost in costs.items() if cost is taken)


def tensor_processes(sharding: ShardingConfig, world: World) -> int:
    """How many processes share each layer; 1 where none do.

    Raises:
        UserError: the number that is configured does not fit the world.
    """
    asked, name = sharding.tensor_processes, sharding.strategy
    if not STRATEGIES[name].shares_layers:
        return world.size if name == "tensor" else 1
    if asked is None:
        several = 1 < world.local_size < world.size
        # Of machines that are not all full, so many that none of their groups reaches into the next machine.
        asked = math.gcd(world.size, world.local_size if several else 2)
    if world.size % asked:
        divisors = [str(d) for d in range(1, world.size + 1) if world.size % d == 0]
        raise UserError(
            f"sharding.tensor_processes: {asked} does not divide the {world.size} processes; allowed: "
            f"{', '.join(divisors)}"
        )
    return asked
