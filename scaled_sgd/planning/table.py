"""The cost of every strategy of :data:`scaled_sgd.parallel.strategies.STRATEGIES`, by name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from scaled_sgd.core.registry import Registry
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning.cost import Cost
from scaled_sgd.planning.hardware import Hardware
from scaled_sgd.planning.replicas import ddp, ddp_fused
from scaled_sgd.planning.shards import fsdp2, fsdp2_tensor, rows_fused, tensor
from scaled_sgd.planning.workload import Workload
from scaled_sgd.planning.zero import zero1, zero2, zero3


@dataclass(frozen=True)
class Formulas:
    """Cost functions of workload and hardware, and of ``parts`` where ``sharding.tensor_processes`` applies.

    Attributes:
        autograd: cost of autograd steps.
        fused: cost of fused steps; None if there are none.
    """

    autograd: Callable[..., Cost]
    fused: Callable[[Workload, Hardware], Cost] | None = None


COSTS: Registry[Formulas] = Registry("sharding.strategy")
for _name, _formulas in {
    "ddp": Formulas(ddp, ddp_fused),
    "fsdp2": Formulas(fsdp2, rows_fused),
    "tensor": Formulas(tensor, rows_fused),
    "fsdp2+tensor": Formulas(fsdp2_tensor, rows_fused),
    "zero1": Formulas(zero1),
    "zero2": Formulas(zero2),
    "zero3": Formulas(zero3),
}.items():
    COSTS.add(_name, _formulas)


def predict(
    strategy: str, work: Workload, hardware: Hardware, *, fused: bool = False, parts: int = 1
) -> Cost:
    """The cost of a strategy; ``parts`` processes share a layer if ``sharding.tensor_processes`` applies."""
    formulas = COSTS[strategy]
    if fused:
        assert formulas.fused is not None
        cost = formulas.fused(work, hardware)
    elif STRATEGIES[strategy].shares_layers:
        cost = formulas.autograd(work, hardware, parts=parts)
    else:
        cost = formulas.autograd(work, hardware)
    # Strategies may share a formula.
    return replace(cost, strategy=strategy)


def rows(hardware: Hardware, *, parts: int) -> Iterator[tuple[str, bool]]:
    """Strategies, fused or not, that differ on this hardware; simplest first."""
    seen: list[Callable[..., Cost]] = []
    for strategy in STRATEGIES:
        if strategy not in COSTS or (STRATEGIES[strategy].shares_layers and not 1 < parts < hardware.ranks):
            continue
        yield strategy, False
        fused = COSTS[strategy].fused
        if fused is not None and fused not in seen:
            seen.append(fused)
            yield strategy, True
