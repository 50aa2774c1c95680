"""Optimizers by name, readable without torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scaled_sgd.core.registry import Registry


@dataclass(frozen=True)
class Optimizer:
    """One optimizer.

    Attributes:
        name: as ``optim.optimizer`` has it.
        label: what it does, in a few words.
        build: makes it from a network, lr and the keywords of :class:`~.optimizer.ScaledSGD`; text
            ``"module:name"`` is imported when it is used.
        state: names of the tensors of a weight's size that it keeps, as in ``torch.optim`` states.
        fused: whether fused steps take the same step.
        stacked: whether a stack of networks does.
        sharded: whether it works on parts of weights.
    """

    name: str
    label: str
    build: str | Callable[..., Any]
    state: tuple[str, ...] = ()
    fused: bool = False
    stacked: bool = False
    sharded: bool = False


OPTIMIZERS: Registry[Optimizer] = Registry("optim.optimizer")
OPTIMIZERS.add(
    "sgd",
    Optimizer(
        "sgd",
        "v ← μ v + ξ G + λ W, W ← W − η v",
        "scaled_sgd.steps.optimizer:ScaledSGD",
        state=("momentum_buffer",),
        fused=True,
        stacked=True,
        sharded=True,
    ),
)
