"""The cost of a step for a process under one strategy."""

from collections.abc import Mapping
from dataclasses import dataclass

from scaled_sgd.planning.hardware import Hardware
from scaled_sgd.planning.traffic import Traffic, all_reduce
from scaled_sgd.planning.workload import Workload


@dataclass(frozen=True)
class Cost:
    """Memory, traffic and time.

    Attributes:
        strategy: its name in ``sharding.strategy``.
        held_bytes: memory between steps.
        peak_bytes: memory at the peak of a step.
        moment: the moment of that peak.
        traffic: traffic of a step.
        multiplying: seconds of matrix products in a step.
        seconds: time of a step; products and traffic overlap if the strategy overlaps them.
        fused: whether steps are fused.
        parts: number of processes that share each layer, where ``sharding.tensor_processes`` applies.
        factors: for each layer, whether factors are exchanged instead of gradients; empty if none are.
    """

    strategy: str
    held_bytes: float
    peak_bytes: float
    moment: str
    traffic: Traffic
    multiplying: float
    seconds: float
    fused: bool = False
    parts: int | None = None
    factors: tuple[bool, ...] = ()

    @property
    def label(self) -> str:
        """The strategy and its update as one word."""
        return f"{self.strategy}+fused" if self.fused else self.strategy

    @property
    def update(self) -> str:
        """The value of ``optim.update`` for these steps."""
        return f"--optim.update {'fused' if self.fused else 'autograd'}"

    @property
    def options(self) -> str:
        """The command-line options that select this."""
        shared = "" if self.parts is None else f" --sharding.tensor_processes {self.parts}"
        return f"--sharding.strategy {self.strategy}{shared} {self.update}"


def worst(moments: Mapping[str, float]) -> tuple[float, str]:
    """The largest number of bytes, and the name of its moment."""
    name = max(moments, key=lambda moment: moments[moment])
    return moments[name], name


def direction_traffic(work: Workload, hardware: Hardware) -> Traffic:
    """Traffic for the direction of a step, besides signals and gradients.

    For one number ξ_k per layer: F_k, D_k and R in float64, in one all-reduce.
    """
    return all_reduce(8 * (2 * work.depth + 1), hardware.everyone, hardware)
