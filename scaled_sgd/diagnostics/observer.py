"""Measures a run's quantities at diagnostic steps, for a row of ``metrics.jsonl``."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import Loss
from scaled_sgd.core.products import full_float32
from scaled_sgd.core.registry import load
from scaled_sgd.diagnostics.eigenpairs import Eigenpairs
from scaled_sgd.diagnostics.operators.curvature import Curvature, curvature
from scaled_sgd.diagnostics.operators.replayed import allow_graphs
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.diagnostics.registry import QUANTITIES
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.diagnostics.taylor import TaylorCoefficients, taylor_of
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.minibatch import Minibatch, gradient_rows

Say = Callable[[str], object]
Draw = Callable[[int], Minibatch]
Keep = Callable[[Partition, Eigenpairs], object]

_NAMES_BEFORE = {"start": "sharpness", "kernel": "ranks"}
"""The quantity of each state that earlier checkpoints name without a quantity."""


class Settings(Protocol):
    """The keys of the ``diagnostics.`` section that are used here. A quantity's switch has its name."""

    every: int
    chunk: int
    quantities: list[str]


def no_samples(number: int) -> Minibatch:
    """Refuses to draw minibatches.

    Raises:
        UserError: always.
    """
    raise UserError(
        "diagnostics.quantities: batch_sharpness, gradient_noise, batch_spectrum and noise_stability draw "
        "minibatches from all training samples; allowed here: others"
    )


@dataclass(frozen=True)
class Context:
    """The input of a quantity. All its members are collective.

    Attributes:
        minibatch: the minibatch of the coming step.
        taken: that step.
        make_probe: makes the fixed probe with the current weights.
        say: prints one line for the user, once.
        draw: gives the minibatch of this number, from 0, of fresh ones of a step's size.
        probe_is_all: whether the probe has all training samples.
        found: eigenpairs on the probe that a quantity found and others can take, by operator.
    """

    minibatch: Minibatch
    taken: StepTaken
    make_probe: Callable[[], Minibatch]
    say: Say = field(default=lambda line: None)
    draw: Draw = no_samples
    probe_is_all: bool = False
    found: dict[str, Eigenpairs] = field(default_factory=dict)

    @cached_property
    def probe(self) -> Minibatch:
        """The probe; all quantities share its signals."""
        return self.make_probe()

    @cached_property
    def hessian(self) -> Curvature:
        """H of the probe."""
        return curvature(self.probe)

    @cached_property
    def gradient(self) -> Tensor:
        """This process's rows of the probe's gradient, of all layers, flat."""
        return torch.cat([rows.reshape(-1) for rows in gradient_rows(self.probe).values()])

    @cached_property
    def terms(self) -> TaylorCoefficients:
        """c0..c3 of the minibatch loss along the step, which must be known."""
        return taylor_of(self.minibatch, self.taken.along(self.minibatch))


class Quantity(Protocol):
    """Something that a run measures; made once per run, from the ``diagnostics.`` section."""

    def measure(self, context: Context) -> dict[str, Any]:
        """Its columns of a row: plain numbers and lists, the same on every process; None where undefined."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that later measurements depend on, by name.

        Names that begin with ``start.`` are this process's share and fit only this world; all others are the
        same on every process.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`; names may be missing."""
        ...


class Observer:
    """Measures a network before a step. Collective: every rank calls it with its own samples.

    Args:
        config: what to measure.
        model: a HomogeneousMLP, possibly wrapped or sharded.
        x: the probe, the same on every rank.
        y: targets of the probe, in the form that the loss takes.
        loss: ``cross_entropy`` or ``mse``, or a loss.
        say: called once on every rank with the reason why something is absent; by default rank 0 prints it.
        probe_is_all: whether the probe has all training samples.
        graphs: whether products may be captured as CUDA graphs.

    Attributes:
        quantities: the measured quantities, by name.
        say: as above.
        keep: called at each measurement with the eigenpairs of H on the probe, if they were found; or None.

    Raises:
        UserError: ``config.quantities`` has a name that is not registered.
    """

    def __init__(
        self,
        config: Settings,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: str | Loss,
        say: Say | None = None,
        probe_is_all: bool = False,
        graphs: bool = True,
    ) -> None:
        self._graphs = graphs
        self._every, self._probe_is_all = config.every, probe_is_all
        self._make_probe = lambda: Minibatch(model, x, y, loss=loss, chunk_size=config.chunk, whole=True)
        self.say = say or print_on_first_rank
        self.keep: Keep | None = None
        self._said: set[str] = set()
        self.quantities: dict[str, Quantity] = {
            name: load(QUANTITIES[name].make)(config) for name in switched_on(config)
        }

    def due(self, step: int) -> bool:
        """Whether ``step`` is a diagnostic step."""
        return self._every > 0 and step % self._every == 0

    @without_autocast
    def measure(self, minibatch: Minibatch, taken: StepTaken, draw: Draw = no_samples) -> dict[str, Any]:
        """All measurements before the step ``taken`` on ``minibatch``; ``draw`` gives fresh minibatches."""
        context = Context(
            minibatch, taken, self._make_probe, self._say_once, draw, probe_is_all=self._probe_is_all
        )
        row: dict[str, Any] = {}
        with full_float32(), allow_graphs(self._graphs):
            for quantity in self.quantities.values():
                row |= quantity.measure(context)
            if self.keep is not None and "hessian" in context.found:
                self.keep(context.probe.partition, context.found["hessian"])
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
    """Names of the quantities that the section switches on, in the order of the registry.

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
