"""What a run measures at diagnostic steps, as a row of ``metrics.jsonl``."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scaled_sgd.core.registry import load
from scaled_sgd.diagnostics.registry import QUANTITIES
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.steps.minibatch import Minibatch

Say = Callable[[str], object]

_NAMES_BEFORE = {"start": "sharpness", "kernel": "ranks"}
"""Whose state it is that earlier checkpoints name without its quantity."""


class Settings(Protocol):
    """The ``diagnostics.`` section, as far as it is looked at here. A quantity's own switch has its name."""

    every: int
    chunk: int
    quantities: list[str]


@dataclass(frozen=True)
class Context:
    """What a quantity measures. Everything in it is collective.

    Attributes:
        minibatch: of the coming step.
        taken: that step.
        make_probe: the fixed probe with the weights of now.
        say: tells the user one line, once.
    """

    minibatch: Minibatch
    taken: StepTaken
    make_probe: Callable[[], Minibatch]
    say: Say = field(default=lambda line: None)

    @cached_property
    def probe(self) -> Minibatch:
        """The probe, whose signals all quantities share."""
        return self.make_probe()


class Quantity(Protocol):
    """Something that a run measures; made once a run, from the ``diagnostics.`` section."""

    def measure(self, context: Context) -> dict[str, Any]:
        """Its part of a row, plain numbers and lists, the same on every process; null where undefined."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What later measurements depend on, by name.

        Names that begin with ``start.`` are this process's share, which fits one world; all others are the
        same on every process.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up :meth:`state_dict`; names may be missing."""
        ...


class Observer:
    """Measures a network before a step. Collective: every rank calls it with its own samples.

    Args:
        config: what to measure.
        model: a HomogeneousMLP, wrapped and sharded as may be.
        x: the probe, the same on every rank.
        y: their targets, as the loss takes them.
        loss: ``cross_entropy`` or ``mse``.
        say: told on every rank, once, why something is absent; by default the first one prints it.

    Attributes:
        quantities: what is measured, by name.
        say: as above.

    Raises:
        UserError: ``config.quantities`` has a name that is not registered.
    """

    def __init__(
        self, config: Settings, model: nn.Module, x: Tensor, y: Tensor, *, loss: str, say: Say | None = None
    ) -> None:
        self._every = config.every
        self._make_probe = lambda: Minibatch(model, x, y, loss=loss, chunk_size=config.chunk, whole=True)
        self.say = say or print_on_first_rank
        self._said: set[str] = set()
        self.quantities: dict[str, Quantity] = {
            name: load(QUANTITIES[name].make)(config) for name in switched_on(config)
        }

    def due(self, step: int) -> bool:
        """Whether ``step`` is a diagnostic step."""
        return self._every > 0 and step % self._every == 0

    def measure(self, minibatch: Minibatch, taken: StepTaken) -> dict[str, Any]:
        """All that is measured before the step ``taken`` on ``minibatch``.

        In full float32 even when training runs in TF32, whose products have three digits.
        """
        context = Context(minibatch, taken, self._make_probe, self._say_once)
        shorter = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        row: dict[str, Any] = {}
        try:
            for quantity in self.quantities.values():
                row |= quantity.measure(context)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = shorter
        return row

    def state_dict(self) -> dict[str, Tensor]:
        """The state of every quantity, named ``<quantity>.<name>``."""
        return {
            f"{owner}.{name}": tensor
            for owner, quantity in self.quantities.items()
            for name, tensor in quantity.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up :meth:`state_dict`, or what earlier checkpoints have; what is not measured now is left."""
        parts: dict[str, dict[str, Tensor]] = {owner: {} for owner in self.quantities}
        for full, tensor in state.items():
            owner, _, name = full.partition(".")
            if owner in _NAMES_BEFORE:
                owner, name = _NAMES_BEFORE[owner], full
            if owner in parts:
                parts[owner][name] = tensor
        for owner, part in parts.items():
            self.quantities[owner].load_state_dict(part)

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.say(line)


def switched_on(config: Settings) -> list[str]:
    """Names of the quantities that the section asks for, in the order of the registry.

    Raises:
        UserError: an unknown name.
    """
    for name in config.quantities:
        QUANTITIES[name]
    return [
        name
        for name in QUANTITIES
        if QUANTITIES[name].always or getattr(config, name, None) is True or name in config.quantities
    ]


def fits_any_world(name: str) -> bool:
    """Whether the state called ``name`` is the same on every process."""
    return ".start." not in f".{name}"


def print_on_first_rank(line: str) -> None:
    """To stderr."""
    if not (dist.is_initialized() and dist.get_rank()):
        print(line, file=sys.stderr, flush=True)
