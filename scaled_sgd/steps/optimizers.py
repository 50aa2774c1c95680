"""Optimizers by name: how to build them, their state and their capabilities. Does not import torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scaled_sgd.core.registry import Registry


@dataclass(frozen=True)
class Optimizer:
    """One optimizer.

    Attributes:
        name: its name in ``optim.optimizer``.
        label: a short description.
        build: makes a ``torch.optim.Optimizer`` from (network, lr, momentum=, weight_decay=); text
            ``"module:name"`` is imported on first use. A hook scales gradients before its steps.
        state: maps checkpoint names of its tensors of a weight's size to their names in its state.
        counts: numbers in its state that are the same for all weights, such as ``step``.
        needs: key of ``optim.`` that must not be 0 for ``state`` to exist; None: ``state`` always exists.
        folds: whether ``build`` also takes ``rule``, ``static`` and ``grad_scaler``, and scales by itself.
        fused: whether fused steps take the same step; ``build`` then makes a
            :class:`~scaled_sgd.steps.optimizer.ScaledSGD`, which holds v_k.
        stacked: whether steps of a stack of networks take the same step.
        sharded: whether it works on row shards.
        zero: whether DeepSpeed's ZeRO takes the same step with its own optimizer.
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
        """The entries of ``state`` that exist for a section ``optim.``."""
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
