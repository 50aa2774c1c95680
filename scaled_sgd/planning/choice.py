"""Resolves the strategy of a run, checks it against the launch, and predicts its cost."""

import math
from dataclasses import dataclass, replace

from scaled_sgd.config import Config, ShardingConfig
from scaled_sgd.config.combinations import permits, violations, with_strategy, with_update
from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel.strategies import SIMPLEST, STRATEGIES
from scaled_sgd.planning.advice import advise
from scaled_sgd.planning.cost import Cost
from scaled_sgd.planning.hardware import Hardware, nominal
from scaled_sgd.planning.table import COSTS, predict
from scaled_sgd.planning.workload import Workload


@dataclass(frozen=True)
class World:
    """The world of a launch.

    Attributes:
        size: number of processes.
        local_size: number of processes on this machine.
        cuda: whether each process has its own GPU.
        memory: bytes of memory of a process.
        launched: the strategy in the launcher's configuration file; None: any.
        launched_half: whether that file makes it gather weights in 16 bits.
    """

    size: int
    local_size: int
    cuda: bool
    memory: int
    launched: str | None = None
    launched_half: bool = False


def choose(config: Config, world: World, work: Workload) -> ShardingConfig:
    """The section with ``auto`` resolved and everything else checked.

    ``auto`` becomes what the launcher names, ``ddp`` on one process, else what :mod:`scaled_sgd.planning`
    recommends for nominal rates: nothing is measured, so that all processes decide alike in every launch.

    Args:
        config: the configuration with the unresolved section.
        world: the launched world.
        work: the workload of a step.

    Raises:
        UserError: the launch cannot do what is configured.
    """
    sharding = config.sharding
    name: str = sharding.strategy
    if name == "auto":
        name = world.launched or (SIMPLEST if world.size == 1 else _advised(config, world, work))
    if world.launched is not None and name != world.launched:
        raise UserError(
            f"sharding.strategy: {name!r} was asked for and {world.launched!r} launched; allowed: auto, "
            f"{world.launched}, or a launch without DeepSpeed and FSDP"
        )
    chosen = with_strategy(config, name).sharding
    tensor_processes(chosen, world)
    return chosen


def cost_of(config: Config, world: World, work: Workload) -> Cost:
    """The predicted cost of a step, per process, of a run with a resolved strategy.

    Raises:
        UserError: the configured number of processes that share a layer does not fit.
    """
    name, parts = config.sharding.strategy, tensor_processes(config.sharding, world)
    return predict(name, work, hardware_of(world, work), fused=is_fused(config, name), parts=parts)


def is_fused(config: Config, strategy: str) -> bool:
    """Whether steps under ``strategy`` are fused."""
    return with_update(with_strategy(config, strategy)).optim.update == "fused"


def hardware_of(world: World, work: Workload) -> Hardware:
    """A launch with nominal rates."""
    hardware = nominal("cuda" if world.cuda else "cpu", half=work.half)
    return replace(hardware, ranks=world.size, per_machine=world.local_size, memory=world.memory)


def obstacle(config: Config, strategy: str, *, fused: bool) -> str | None:
    """Why a strategy cannot train this configuration by fused steps, or by autograd; None if it can."""
    optim = replace(config.optim, update="fused" if fused else "autograd")
    return next(violations(replace(with_strategy(config, strategy), optim=optim)), None)


def _advised(config: Config, world: World, work: Workload) -> str:
    """The fastest strategy for any launch that fits, else the one that needs the least memory."""
    costs = [cost_of(with_strategy(config, name), world, work) for name in possible(config, world)]
    advice = advise(costs, hardware_of(world, work))
    return (advice.cost or min(costs, key=lambda cost: cost.peak_bytes)).strategy


def possible(config: Config, world: World) -> list[str]:
    """Strategies without their own launch that support the configuration and differ on this world."""
    natives = [can.name for can in STRATEGIES.entries if can.launch_file is None and can.name in COSTS]
    names = [name for name in natives if permits(config, name)] or [SIMPLEST]
    if len(names) == 1:
        return names
    return [
        name
        for name in names
        if not STRATEGIES[name].shares_layers
        or 1 < tensor_processes(with_strategy(config, name).sharding, world) < world.size
    ]


def tensor_processes(sharding: ShardingConfig, world: World) -> int:
    """Number of processes that share each layer; 1 if layers are not shared.

    Raises:
        UserError: the configured number does not fit the world.
    """
    asked, can = sharding.tensor_processes, STRATEGIES[sharding.strategy]
    if not can.shares_layers:
        return 1 if can.splits_samples else world.size
    if asked is None:
        several = 1 < world.local_size < world.size
        # If not all machines are full, choose a number such that no group spans two machines.
        asked = math.gcd(world.size, world.local_size if several else 2)
    if world.size % asked:
        divisors = [str(d) for d in range(1, world.size + 1) if world.size % d == 0]
        raise UserError(
            f"sharding.tensor_processes: {asked} does not divide the {world.size} processes; allowed: "
            f"{', '.join(divisors)}"
        )
    return asked
