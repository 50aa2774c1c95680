"""A training session on any number of processes: network, data, evaluation and diagnostics."""

import math
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.config import Config, OptimConfig
from scaled_sgd.config.network import network_of
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import Centered, get_loss
from scaled_sgd.core.products import full_float32
from scaled_sgd.core.schedules import AdasSchedule, DriftSchedule, EdgeSchedule, MeasuredSchedule, Schedule
from scaled_sgd.core.start import outputs_at_start
from scaled_sgd.data import Batch, Data, Resident
from scaled_sgd.data.metrics import Evaluation
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.eigenpairs import sharpness_of
from scaled_sgd.diagnostics.knowledge import knowledge_of
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.operators.curvature import curvature, drift_along_gradient
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.diagnostics.taylor import taylor_of
from scaled_sgd.parallel import Partition, Ranks, reshard
from scaled_sgd.parallel.agreement import from_first_rank, on_first_rank
from scaled_sgd.steps.rules import RULES
from scaled_sgd.train.evaluation import gather_outputs, mean_loss
from scaled_sgd.train.samples import Samples
from scaled_sgd.train.steps import step_taken
from scaled_sgd.train.strategies import Strategy

_START_TOLERANCE, _START_PRODUCTS = 1e-7, 1000
"""Of the search for λ₀, so that a rate does not depend on the number of processes."""


def schedule_of(optim: OptimConfig, steps: int) -> Schedule | MeasuredSchedule:
    """η of each step."""
    every, warmup_steps = optim.edge_every, optim.warmup_steps
    if optim.schedule == "edge":
        return EdgeSchedule(optim.lr, ratio=optim.edge_ratio, every=every, warmup_steps=warmup_steps)
    if optim.schedule == "drift_adjusted":
        return DriftSchedule(optim.lr, power=optim.drift_power, every=every, warmup_steps=warmup_steps)
    if optim.schedule == "adas":
        return AdasSchedule(
            optim.lr, decay=optim.adas_decay, growth=optim.adas_growth, every=every, warmup_steps=warmup_steps
        )
    return Schedule(optim.schedule, optim.lr, steps, optim.warmup_steps, optim.lr_factors)


class Session:
    """A network with its data and measurements.

    Args:
        config: resolved.
        data: as loaded, the same on every rank.
        strategy: the network in its layout.
        metrics: metrics of evaluations; used on rank 0 only.

    Attributes:
        samples: the data on its device.
        loss: ℓ.
        schedule: η of each step.
        steps: number of steps.
        observer: the diagnostics, or None.
        evaluation: results of the last evaluation.
    """

    def __init__(self, config: Config, data: Data, strategy: Strategy, metrics: Evaluation | None) -> None:
        optim, run = config.optim, config.run
        assert optim.steps is not None
        assert run.eval_every is not None
        self.config, self.data, self.strategy = config, data, strategy
        self.samples = Samples(data, config, strategy.device)
        self.loss = get_loss(config.loss)
        if config.model.centered:
            network = network_of(config, data.in_features, data.out_features, device="meta")
            self.loss = loss = Centered(self.loss)
            self.samples.join(lambda x: outputs_at_start(network, x), loss.joined, strategy.data)
        self.steps, self._evaluation_interval, self._log_interval = optim.steps, run.eval_every, run.log_every
        self.schedule = schedule_of(optim, self.steps)
        self.evaluation: dict[str, float] = {}
        self._metrics = metrics
        self._probe = self.samples.probe(strategy.data)
        self._measured: Minibatch | None = None
        self.observer: Observer | None = None
        if config.diagnostics.every:
            probe = self.samples.probe(Ranks.alone())
            self.observer = Observer(
                config.diagnostics,
                strategy.module,
                *probe,
                loss=self.loss,
                probe_is_all=self.samples.probe_is_all,
                graphs=run.cuda_graphs != "no",
            )

    def find_rate(self) -> str | None:
        """Set the peak rate by ``optim.lr_in_edges``; one line about it, or None. Before step 0. Collective.

        In units of 2/λ₀ with λ₀ the largest eigenvalue of Ξ^{1/2} H Ξ^{1/2} on the probe, ξ the rule's there.

        Raises:
            UserError: there is no positive λ₀.
        """
        edges = self.config.optim.lr_in_edges
        if edges is None:
            return None
        probe = self._minibatch(*self.samples.probe(Ranks.alone()))
        with full_float32():
            xi = RULES[self.config.scaling.rule](probe.statistics).numbers.to(probe.partition.dtype)
            top = sharpness_of(
                curvature(probe, xi), tolerance=_START_TOLERANCE, max_iterations=_START_PRODUCTS
            )
        found = from_first_rank(lambda: float(top.values[0]))
        if not 0 < found < math.inf:
            raise UserError(
                f"optim.lr_in_edges: {edges:g} has no unit, for the sharpness at the start is {found:g}; "
                "allowed: null, with optim.lr"
            )
        self.schedule.peak = 2 * edges / found
        return (
            f"optim.lr_in_edges: the rate is {self.schedule.peak:.6g}, {edges:g} times 2/λ₀ with λ₀ = "
            f"{found:.6g} on {probe.total:,} samples"
        )

    def evaluates(self, step: int) -> bool:
        """Whether ``step`` begins with an evaluation."""
        return step > 0 and step % self._evaluation_interval == 0

    def observes(self, step: int) -> bool:
        """Whether ``step`` is a diagnostic step."""
        return self.observer is not None and self.observer.due(step)

    def logs(self, step: int) -> bool:
        """Whether ``step`` has a row."""
        return step % self._log_interval == 0 or self.evaluates(step) or self.observes(step)

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics over the held-out samples; the metrics on rank 0 only. Collective."""
        samples, metrics, in_unit = self.samples, self._metrics, self.data.pipeline.in_unit
        loss, outputs = self._mean_loss(samples.held_out)
        outputs = gather_outputs(outputs, len(samples.held_out), self.strategy.data)
        if self.data.task == "regression":
            outputs = in_unit(outputs)
        figures = on_first_rank(lambda: metrics.compute(outputs, samples.references) if metrics else {})
        self.evaluation = {"eval_loss": loss} | (figures or {})
        return self.evaluation

    def observe(self, batch: Batch, lr: float) -> dict[str, Any]:
        """Diagnostics of the network before its step on ``batch`` at rate ``lr``. Collective."""
        assert self.observer is not None
        return self.observer.measure(
            *self._coming(self._signals_of(batch), lr),
            lambda number: self._minibatch(*self.samples.fresh(batch, number)),
        )

    def adapt(self, step: int, batch: Batch) -> None:
        """Update the rate of ``step`` where the schedule goes by what is measured of it. Collective."""
        schedule = self.schedule
        if not isinstance(schedule, MeasuredSchedule) or not schedule.due(step):
            return
        if isinstance(schedule, AdasSchedule):
            found = knowledge_of(Partition.of(self.strategy.module))
            gain = sum(one.gain for one in found) / len(found)
            schedule.see(from_first_rank(lambda: gain))
            return
        minibatch, taken = self._coming(self._signals_of(batch), 1.0)
        if self.observes(step):
            self._measured = minibatch
        if isinstance(schedule, DriftSchedule):
            drift = float(drift_along_gradient(minibatch, taken.direction.numbers * taken.factor))
            schedule.see(from_first_rank(lambda: drift))
            return
        assert isinstance(schedule, EdgeSchedule)
        terms = taylor_of(minibatch, taken.along(minibatch), order=2)
        assert terms.c2 is not None
        slope, curvature = float(terms.c1) * taken.rate, float(terms.c2) * taken.rate**2
        schedule.see(*from_first_rank(lambda: (slope, curvature)))

    def _signals_of(self, batch: Batch) -> Minibatch:
        """The signals of the coming step's ``batch``, measured once. Collective."""
        found, self._measured = self._measured, None
        if found is not None:
            # An evaluation leaves FSDP2's weights gathered.
            reshard(self.strategy.network)
            return found
        return self._minibatch(*batch.whole())

    def _coming(self, minibatch: Minibatch, lr: float) -> tuple[Minibatch, StepTaken]:
        """``minibatch`` and the step that comes."""
        velocity = self.strategy.velocity_rows(minibatch.partition)
        adam = self.strategy.adam_state(minibatch.partition)
        return minibatch, step_taken(minibatch, lr, self.config.optim, self.strategy.scaling, velocity, adam)

    def _minibatch(self, x: Tensor, y: Tensor) -> Minibatch:
        """Samples that every rank has."""
        chunk = self.config.diagnostics.chunk
        return Minibatch(self.strategy.module, x, y, loss=self.loss, chunk_size=chunk, whole=True)

    def train_loss(self) -> float | None:
        """Mean loss over all training samples; None for a stream. Collective."""
        return self._mean_loss(self.samples.train)[0] if isinstance(self.samples.train, Resident) else None

    def loss_on(self, batch: Batch) -> float:
        """Mean loss on ``batch`` with the current weights. Collective."""
        return float(self.strategy.data.sum(self._total_loss(*batch.own()))) / batch.n_global

    def probe_loss(self) -> Tensor:
        """Sum of losses () on this process's samples of the probe. Collective if weights are sharded."""
        return self._total_loss(*self._probe)

    @torch.no_grad()
    def _total_loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss.value(self.strategy.forward(x), y).sum(dtype=torch.float64)

    def _mean_loss(self, samples: Resident) -> tuple[float, Tensor]:
        return mean_loss(self.strategy.forward, samples, loss=self.loss, ranks=self.strategy.data)
