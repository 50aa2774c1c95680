"""The warning about a step whose predicted memory exceeds the usable memory."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from scaled_sgd.config import Config
from scaled_sgd.config.combinations import with_strategy
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning.advice import fits
from scaled_sgd.planning.choice import (
    World,
    cost_of,
    hardware_of,
    is_fused,
    obstacle,
    possible,
)
from scaled_sgd.planning.cost import Cost
from scaled_sgd.planning.hardware import Hardware
from scaled_sgd.planning.table import COSTS, predict
from scaled_sgd.planning.units import size
from scaled_sgd.planning.workload import Workload


def memory_warning(config: Config, world: World, work: Workload) -> str | None:
    """One line if the predicted peak of a step exceeds a process's usable memory; it names what would fit.

    Args:
        config: a configuration with a resolved strategy.
        world: the launched world.
        work: the workload of a step.
    """
    if config.sharding.strategy not in COSTS:
        return None
    cost, hardware = cost_of(config, world, work), hardware_of(world, work)
    if fits(cost, hardware):
        return None
    less = " or ".join(_smaller(config, world, work))
    less = less or "a smaller model.base_width, more processes or more memory"
    return (
        f"warning: a step of {work.weights:,} weights on {work.batch:,} samples under {cost.label} is "
        f"predicted to take {size(cost.peak_bytes)} of each process, {size(hardware.usable)} of "
        f"{size(hardware.memory)} are usable; what fits: {less}"
    )


def _smaller(config: Config, world: World, work: Workload) -> Iterator[str]:
    """Single options that make a step fit."""
    name, hardware = config.sharding.strategy, hardware_of(world, work)
    if world.size > 1 and world.launched is None:
        for other in possible(config, world):
            if fits(cost_of(with_strategy(config, other), world, work), hardware):
                yield f"--sharding.strategy {other}"
                break
    if STRATEGIES[name].fused and obstacle(config, name, fused=True) is None:
        cost = predict(name, work, hardware, fused=True)
        if not is_fused(config, name) and fits(cost, hardware):
            yield cost.update
    batch = fitting_batch(work, hardware, lambda part: cost_of(config, world, part))
    if batch is not None:
        yield f"--optim.batch_size {batch}"


def fitting_batch(work: Workload, hardware: Hardware, cost_at: Callable[[Workload], Cost]) -> int | None:
    """The largest of n/2, n/4, … samples whose step fits; None if none does."""
    batch = work.batch // 2
    while batch >= work.accumulation:
        if fits(cost_at(replace(work, batch=batch)), hardware):
            return batch
        batch //= 2
    return None
