"""A run of a study: its network, data and measurements, whoever takes its steps."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scaled_sgd.config import Config
from scaled_sgd.config.network import network_of
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import get_loss
from scaled_sgd.core.schedules import Schedule
from scaled_sgd.data import Data, Resident
from scaled_sgd.data.batches import SHUFFLED_WHOLE
from scaled_sgd.data.metrics import built_in_metrics
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.parallel import Ranks
from scaled_sgd.parallel.machine import host_memory
from scaled_sgd.planning.choice import World
from scaled_sgd.steps.hook import DepthwiseScaling
from scaled_sgd.steps.signals import Minibatch
from scaled_sgd.train.evaluation import mean_loss
from scaled_sgd.train.resolution import resolve
from scaled_sgd.train.samples import Samples
from scaled_sgd.train.steps import step_taken

_PLACED_BYTES = 2**30
"""Data sets are kept as they lie on a device while they fill at most so much; the last one always."""


class Cut(NamedTuple):
    """One minibatch of a run.

    Attributes:
        step: whose it is.
        epoch: as a fraction.
        samples: seen before it.
        x: inputs (n, m_0).
        y: targets as the loss takes them.
    """

    step: int
    epoch: float
    samples: int
    x: Tensor
    y: Tensor


class Run:
    """What a configuration trains, evaluates and measures, in this process alone.

    The same numbers as those of :class:`scaled_sgd.train.trainer.Trainer` on one process, but for rounding.

    Args:
        config: checked.
        data: in memory.

    Attributes:
        logged: the steps that have a row.
        velocity: v_k before the next step, for diagnostics; given by whoever takes the steps.

    Raises:
        UserError: the configuration does not fit the data or this machine.
    """

    def __init__(self, config: Config, data: Data) -> None:
        self.device = find_device(config)
        self.config = config = resolve(config, data, _world(self.device))
        self.data = data
        self.loss = get_loss(config.loss)
        self.samples = Samples(_place(data, self.device, config.model.dtype), config, self.device)
        train = self.samples.train
        if not isinstance(train, Resident):
            raise UserError("data.streaming: true does not fit a study's small runs; allowed: false")
        self._whole_split, self._train = train, Resident(train.x, self.samples.targets(train.y))
        optim = config.optim
        assert optim.steps is not None
        assert config.run.eval_every is not None
        self.steps, self._evaluation_interval = optim.steps, config.run.eval_every
        self.model = network_of(config, data.in_features, data.out_features, device=self.device)
        self.scaling = DepthwiseScaling(self.model, rule=config.scaling.rule, static=config.scaling.static)
        self.scaling.measure_elsewhere()
        self.schedule = Schedule(optim.schedule, optim.lr, self.steps, optim.warmup_steps)
        self._metrics = built_in_metrics(config.run.metrics or [], data.task)
        self._probe = self.samples.probe(Ranks.alone())
        self.velocity: Callable[[int], Tensor | None] = lambda k: None
        self._observer = (
            Observer(config.diagnostics, self.model, *self._probe, loss=self.loss.name, say=lambda line: None)
            if config.diagnostics.every
            else None
        )
        every = config.run.log_every
        self.logged = frozenset(
            step
            for step in range(self.steps)
            if step % every == 0 or self.evaluates(step) or self.observes(step)
        )

    def cuts(self) -> Iterator[Cut]:
        """The minibatch of each step, in order."""
        batch_size, seed = self.config.optim.batch_size, self.config.run.seed
        per_epoch = self._train.steps_per_epoch(batch_size)
        step = epoch = samples = 0
        while True:
            for number, (x, y) in enumerate(self._epoch(batch_size, seed, epoch)):
                yield Cut(step, epoch + number / per_epoch, samples, x, y)
                step, samples = step + 1, samples + len(x)
                if step == self.steps:
                    return
            epoch += 1

    def evaluates(self, step: int) -> bool:
        """Whether ``step`` begins with an evaluation."""
        return step > 0 and step % self._evaluation_interval == 0

    def observes(self, step: int) -> bool:
        """Whether ``step`` is a diagnostic step."""
        return self._observer is not None and self._observer.due(step)

    def observe(self, cut: Cut) -> dict[str, Any]:
        """What the diagnostics say of the network before its step on ``cut``."""
        assert self._observer is not None
        chunk = self.config.diagnostics.chunk
        minibatch = Minibatch(self.model, cut.x, cut.y, loss=self.loss.name, chunk_size=chunk)
        lr = self.schedule(cut.step)
        taken = step_taken(minibatch, lr, self.config.optim, self.scaling, self.velocity)
        return self._observer.measure(minibatch, taken)

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics over the held-out samples."""
        loss, outputs = self._mean_loss(self.samples.held_out)
        return {"eval_loss": loss} | self._metrics.compute(outputs, self.samples.held_out.y)

    def train_loss(self) -> float:
        """Mean loss over all training samples."""
        return self._mean_loss(self._whole_split)[0]

    @torch.no_grad()
    def loss_on(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum of losses () as the network is now."""
        return self.loss.value(self.model(x), y).sum(dtype=torch.float64)

    def probe_loss(self) -> Tensor:
        """Likewise on the probe."""
        return self.loss_on(*self._probe)

    def _epoch(self, batch_size: int, seed: int, epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Inputs and targets of its minibatches; all at once where that is little."""
        train = self._train
        if train.x.numel() <= SHUFFLED_WHOLE:
            return train.shuffled(batch_size=batch_size, seed=seed, epoch=epoch)
        return ((b.x, b.y) for b in train.batches(batch_size=batch_size, seed=seed, epoch=epoch))

    def _mean_loss(self, samples: Resident) -> tuple[float, Tensor]:
        return mean_loss(self.model, samples, self.samples.targets, loss=self.loss, ranks=Ranks.alone())


def find_device(config: Config) -> torch.device:
    """Where ``run.device`` puts a run.

    Raises:
        UserError: it is not there.
    """
    there, asked = torch.cuda.is_available(), config.run.device
    if asked == "cuda" and not there:
        raise UserError("run.device: 'cuda' is not here; allowed: auto, cpu")
    return torch.device("cuda" if there and asked != "cpu" else "cpu")


def _world(device: torch.device) -> World:
    cuda = device.type == "cuda"
    return World(1, 1, cuda, torch.cuda.mem_get_info()[1] if cuda else host_memory())


_placed: list[tuple[Data, tuple[torch.device, str], Data]] = []


def _place(data: Data, device: torch.device, dtype: str) -> Data:
    """``data`` on ``device`` with numbers of ``dtype``, the last few of them made once a process."""
    for whole, kind, found in _placed:
        if whole is data and kind == (device, dtype):
            return found
    number = getattr(torch, dtype)
    moved = replace(data, train=data.train.to(device, number), evaluation=data.evaluation.to(device, number))
    _placed.append((data, (device, dtype), moved))
    while len(_placed) > 1 and sum(data_bytes(found) for *_, found in _placed) > _PLACED_BYTES:
        del _placed[0]
    return moved


def data_bytes(data: Data) -> int:
    """What the samples of ``data`` that are in memory take."""
    parts = [part for part in (data.train, data.evaluation) if isinstance(part, Resident)]
    return sum(t.numel() * t.element_size() for part in parts for t in (part.x, part.y))
