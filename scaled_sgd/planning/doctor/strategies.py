"""Which values of ``sharding.strategy`` can run here, and why the others cannot."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch.distributed as dist

_NEEDS: dict[str, tuple[str, ...]] = {
    "ddp": (),
    "fsdp2": (),
    "zero1": ("deepspeed",),
    "zero2": ("deepspeed",),
    "zero3": ("deepspeed",),
    "tensor": (),
    "fsdp2+tensor": (),
}
"""Packages beyond torch and accelerate, by strategy."""


@dataclass(frozen=True)
class Strategy:
    """One strategy; ``problem`` says why it cannot run."""

    name: str
    problem: str | None


def strategies(
    *, installed: Callable[[str], bool] = lambda package: find_spec(package) is not None
) -> tuple[Strategy, ...]:
    """All strategies. Packages are looked for, not imported."""
    return tuple(Strategy(name, _problem(needs, installed)) for name, needs in _NEEDS.items())


def _problem(needs: tuple[str, ...], installed: Callable[[str], bool]) -> str | None:
    if not dist.is_available():
        return "this torch is built without torch.distributed"
    missing = [package for package in needs if not installed(package)]
    return f"not installed: {', '.join(missing)} (pip install {' '.join(missing)})" if missing else None
