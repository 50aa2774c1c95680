"""What a step costs a process under one strategy."""

from collections.abc import Mapping
from dataclasses import dataclass

from scaled_sgd.planning.hardware import Hardware
from scaled_sgd.planning.traffic import Traffic, all_reduce
from scaled_sgd.planning.workload import Workload


@dataclass(frozen=True)
class Cost:
    """Memory, traffic and time.

    Attributes:
        strategy: as ``sharding.strategy`` has it.
        held_bytes: between steps.
        peak_bytes: at the worst moment of a step.
        moment: which one that is.
        traffic: sent in a step.
        multiplying: seconds of matrix products in a step.
        seconds: of a step; products and traffic at the same time where the strategy overlaps them.
        fused: whether steps are fused.
        parts: processes that share each layer, where ``sharding.tensor_processes`` says so.
        factors: for each layer, whether factors move instead of gradients; empty where none do.
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
        """The strategy and how it updates, in one word."""
        return f"{self.strategy}+fused" if self.fused else self.strategy

    @property
    def update(self) -> str:
        """The option with which steps are fused or not."""
        return f"--optim.update {'fused' if self.fused else 'autograd'}"

    @property
    def options(self) -> str:
        """What of a command line asks for this."""
        shared = "" if self.parts is None else f" --sharding.tensor_processes {self.parts}"
        return f"--sharding.strategy {self.strategy}{shared} {self.update}"


def worst(moments: Mapping[str, float]) -> tuple[float, str]:
    """The largest number of bytes, and the name of its moment."""
    name = max(moments, key=lambda moment: moments[moment])
    return moments[name], name


def direction_traffic(work: Workload, hardware: Hardware) -> Traffic:
    """What the direction of a step needs of all samples, signals and gradients aside.

    One number ξ_k a layer: F_k, D_k and R in float64, by one all-reduce.
    """
    return all_reduce(8 * (2 * work.depth + 1), hardware.everyone, hardware)
