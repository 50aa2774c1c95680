"""Which values of ``sharding.strategy`` can run on this machine, and why the others cannot."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch.distributed as dist

from scaled_sgd.parallel.strategies import STRATEGIES, Capabilities


@dataclass(frozen=True)
class Availability:
    """One strategy; ``problem`` says why it cannot run."""

    name: str
    problem: str | None


def strategies(
    *, installed: Callable[[str], bool] = lambda package: find_spec(package) is not None
) -> tuple[Availability, ...]:
    """All strategies. Packages are searched for, not imported."""
    return tuple(Availability(can.name, _problem(can, installed)) for can in STRATEGIES.entries)


def _problem(can: Capabilities, installed: Callable[[str], bool]) -> str | None:
    if not dist.is_available():
        return "this torch is built without torch.distributed"
    if can.zero_stage is not None and not installed("deepspeed"):
        return "not installed: deepspeed (pip install 'scaled-sgd[deepspeed]')"
    return None
