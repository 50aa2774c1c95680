"""All strategies side by side, and which one to take."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scaled_sgd.planning.cluster import Cluster
from scaled_sgd.planning.cost import Cost
from scaled_sgd.planning.fused import ddp_fused, fsdp2_fused
from scaled_sgd.planning.load import Load
from scaled_sgd.planning.replicas import ddp
from scaled_sgd.planning.shards import fsdp2, fsdp2_tensor, tensor
from scaled_sgd.planning.units import duration, size
from scaled_sgd.planning.zero import zero1, zero2
from scaled_sgd.planning.zero3 import zero3

_MODELS: dict[str, Callable[[Load, Cluster], Cost]] = {
    "ddp": ddp,
    "ddp+fused": ddp_fused,
    "fsdp2": fsdp2,
    "fsdp2+fused": fsdp2_fused,
    "tensor": tensor,
    "zero1": zero1,
    "zero2": zero2,
    "zero3": zero3,
}
PLANNED = ("ddp", "ddp+fused", "fsdp2", "fsdp2+fused", "tensor", "fsdp2+tensor", "zero1", "zero2", "zero3")
"""From the simplest to the one with most parts."""

USABLE = 0.9
"""The share of a process's memory that a step may fill. The rest is for the data set, the runtime and what
lies between blocks, which are not predicted."""
SAME = 1.1
"""Times that differ by less are taken for equal: rates are not known better."""
SHORT = 1e-3
"""Seconds under which all steps are taken for equal: what is not predicted, between operations, is more."""


@dataclass(frozen=True)
class Advice:
    """What to take.

    Attributes:
        cost: of it; None where nothing fits.
        reason: one sentence.
    """

    cost: Cost | None
    reason: str


def predict(strategy: str, load: Load, cluster: Cluster, *, parts: int = 1) -> Cost:
    """What one strategy of ``PLANNED`` costs; ``parts`` processes share a layer under ``fsdp2+tensor``."""
    if strategy == "fsdp2+tensor":
        return fsdp2_tensor(load, cluster, parts)
    return _MODELS[strategy](load, cluster)


def possible(load: Load, cluster: Cluster, *, parts: int) -> Iterable[str]:
    """The strategies of ``PLANNED`` that can train this at all, from the simplest on."""
    for strategy in PLANNED:
        if strategy.endswith("+fused") and not load.can_fuse:
            continue
        if strategy.startswith("zero") and load.itemsize != 4:
            continue
        if strategy == "fsdp2+tensor" and not 1 < parts < cluster.ranks:
            continue
        yield strategy


def fits(cost: Cost, cluster: Cluster) -> bool:
    """Whether a step leaves a tenth of the memory."""
    return cost.peak_bytes <= USABLE * cluster.memory


def advise(costs: Sequence[Cost], cluster: Cluster) -> Advice:
    """The fastest that fits; of equally fast ones the first, which is to be the simplest."""
    fitting = [cost for cost in costs if fits(cost, cluster)]
    if not fitting:
        least = min(costs, key=lambda cost: cost.peak_bytes)
        return Advice(
            None,
            f"none fits: {least.strategy} needs least, {size(least.peak_bytes)} of {size(cluster.memory)}; "
            "take more processes, smaller minibatches or more memory",
        )
    fastest = min(fitting, key=lambda cost: cost.seconds)
    chosen = next(cost for cost in fitting if cost.seconds <= max(SAME * fastest.seconds, SHORT))
    if len(fitting) == 1:
        why = "the only one that fits"
    elif chosen.seconds > SAME * fastest.seconds:
        why = f"as good as any step under {duration(SHORT)}, and simplest"
    elif chosen is not fastest:
        why = f"within a tenth of the fastest, {fastest.strategy}, and simpler"
    else:
        why = "the fastest that fits" if len(fitting) < len(costs) else "the fastest"
    reason = f"{chosen.strategy}: {why}, {duration(chosen.seconds)} a step"
    quicker = [cost for cost in costs if cost.seconds * SAME < chosen.seconds and cost not in fitting]
    if quicker:
        best = min(quicker, key=lambda cost: cost.seconds)
        reason += (
            f"; {best.strategy} would take {duration(best.seconds)} but needs {size(best.peak_bytes)} "
            f"of {size(cluster.memory)}"
        )
    return Advice(chosen, reason)
