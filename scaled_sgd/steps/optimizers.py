"""Optimizers by name: how each is built, what it keeps of a weight, what it can do. Needs no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scaled_sgd.core.registry import Registry


@dataclass(frozen=True)
class Optimizer:
    """One optimizer.

    Attributes:
        name: as ``optim.optimizer`` has it.
        label: what it does, in a few words.
        build: makes a ``torch.optim.Optimizer`` from (network, lr, momentum=, weight_decay=); text
            ``"module:name"`` is imported when it is used. Gradients are scaled by a hook before its steps.
        state: what checkpoints call the tensors of a weight's size that it keeps: their names in its state.
        counts: numbers that it keeps, the same for all weights, such as ``step``.
        needs: key of ``optim.`` that must not be 0 for ``state`` to exist; None: it always does.
        folds: whether ``build`` takes ``rule``, ``static`` and ``grad_scaler`` too, and scales by itself.
        fused: whether fused steps take the same step.
        stacked: whether a stack of networks does.
        sharded: whether it works on rows of weights.
        zero: whether DeepSpeed's ZeRO takes the same step with an optimizer of its own.
    """

    name: str
    label: str
    build: str | Callable[..., Any]
    state: Mapping[str, str] = field(default_factory=dict)
    counts: tuple[str, ...] = ()
    needs: str | None = None
    folds: bool = False
    fused: bool = False
    stacked: bool = False
    sharded: bool = False
    zero: bool = False

    def kept(self, optim: object) -> tuple[str, ...]:
        """What of ``state`` exists under a section ``optim.``."""
        exists = self.needs is None or getattr(optim, self.needs) != 0
        return tuple(self.state) if exists else ()


OPTIMIZERS: Registry[Optimizer] = Registry("optim.optimizer")


def register_optimizer(optimizer: Optimizer) -> Optimizer:
    """Add an optimizer.

    Raises:
        UserError: the name is taken.
    """
    return OPTIMIZERS.add(optimizer.name, optimizer)


register_optimizer(
    Optimizer(
        "sgd",
        "v ← μ v + ξ G + λ W, W ← W − η v",
        "scaled_sgd.steps.optimizer:ScaledSGD",
        state={"momentum": "momentum_buffer"},
        needs="momentum",
        folds=True,
        fused=True,
        stacked=True,
        sharded=True,
        zero=True,
    )
)
