"""Optimizers by name: how to build them, their state and their capabilities. Does not import torch."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scaled_sgd.core.registry import Registry, load


@dataclass(frozen=True)
class Optimizer:
    """One optimizer.

    Attributes:
        name: its name in ``optim.optimizer``.
        label: a short description.
        build: makes a ``torch.optim.Optimizer`` from (network, lr, momentum=, weight_decay=) and
            ``optim.options``; text ``"module:name"`` is imported on first use. A hook scales gradients before
            its steps.
        state: maps checkpoint names of its tensors of a weight's size to their names in its state; None: as
            found after a step of a tiny network.
        counts: numbers in its state that are the same for all weights, such as ``step``.
        held: number of tensors of its state that most weights have; None: all of ``state``.
        needs: key of ``optim.`` that must not be 0 for ``state`` to exist; None: ``state`` always exists.
        folds: whether ``build`` also takes ``rule``, ``static`` and ``grad_scaler``, and scales by itself.
        fused: whether fused steps take the same step; ``build`` then makes a
            :class:`~scaled_sgd.steps.optimizer.ScaledSGD`, which holds v_k.
        stacked: whether steps of a stack of networks take the same step.
        sharded: whether it works on row shards.
        zero: whether DeepSpeed's ZeRO takes the same step with its own optimizer.
        options: whether ``build`` takes ``optim.options``.
        momentum: whether it has the momentum of ``optim.momentum``.
        divides: whether its steps do not change with the length of a layer's gradients.
        rule: what ``scaling.rule: auto`` means with it.
    """

    name: str
    label: str
    build: str | Callable[..., Any]
    state: Mapping[str, str] | None = field(default_factory=dict)
    counts: tuple[str, ...] = ()
    held: int | None = None
    needs: str | None = None
    folds: bool = False
    fused: bool = False
    stacked: bool = False
    sharded: bool = False
    zero: bool = False
    options: bool = False
    momentum: bool = True
    divides: bool = False
    rule: str = "none"

    def kept(self, optim: Any) -> "Kept":
        """What of its state checkpoints hold for a section ``optim.``."""
        if self.state is None:
            found: Kept = load("scaled_sgd.steps.peers:state_of")(self, optim)
            return found
        exists = self.needs is None or getattr(optim, self.needs) != 0
        tensors = self.state if exists else {}
        return Kept(tensors, self.counts, len(tensors) if self.held is None else self.held)


@dataclass(frozen=True)
class Kept:
    """The state of an optimizer in checkpoints.

    Attributes:
        tensors: maps checkpoint names of tensors of a weight's size to their names in the state.
        counts: numbers that are the same for all weights.
        held: number of tensors that most weights have.
    """

    tensors: Mapping[str, str]
    counts: tuple[str, ...]
    held: int


class Optimizers(Registry[Optimizer]):
    """Registered optimizers, and any class of ``torch.optim.Optimizer`` by its path, such as
    ``torch.optim.RMSprop``."""

    words = "or the path of a class such as torch.optim.RMSprop"

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and _is_path(name))

    def __getitem__(self, name: str) -> Optimizer:
        if not super().__contains__(name) and _is_path(name):
            build = partial(load, "scaled_sgd.steps.peers:build_by_path")
            return Optimizer(
                name,
                "a class by its path",
                lambda *arguments, **options: build()(name, *arguments, **options),
                state=None,
                options=True,
            )
        return super().__getitem__(name)


def _is_path(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name) is not None


OPTIMIZERS = Optimizers("optim.optimizer")


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
        rule="spectral",
    )
)
register_optimizer(
    Optimizer(
        "adamw",
        "torch.optim.AdamW",
        "scaled_sgd.steps.peers:adamw",
        state={"mean": "exp_avg", "mean_square": "exp_avg_sq"},
        counts=("step",),
        sharded=True,
        options=True,
        momentum=False,
        divides=True,
    )
)
register_optimizer(
    Optimizer(
        "muon",
        "torch.optim.Muon for hidden layers, AdamW for the first and the last",
        "scaled_sgd.steps.muon:Muon",
        state={"momentum": "momentum_buffer", "mean": "exp_avg", "mean_square": "exp_avg_sq"},
        counts=("step",),
        held=1,
        options=True,
        momentum=False,
        divides=True,
    )
)
register_optimizer(
    Optimizer(
        "nsgd",
        "v ← μ v + (1 − μ) ξ G, W ← W − η (v / ‖v‖ + λ W), the norm over all layers",
        "scaled_sgd.steps.peers:NormalizedSGD",
        state={"momentum": "momentum_buffer"},
        needs="momentum",
    )
)
