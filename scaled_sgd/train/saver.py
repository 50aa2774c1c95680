"""Saves and restores a run: connects the trainer and the checkpoint storage."""

import time
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from scaled_sgd.config import Config, as_dict
from scaled_sgd.config.stored import completed
from scaled_sgd.core.errors import CheckpointError, UserError
from scaled_sgd.core.schedules import MeasuredSchedule, Schedule
from scaled_sgd.data import Data
from scaled_sgd.data.facts import changed_fact, data_facts
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.parallel.agreement import from_first_rank
from scaled_sgd.runs.checkpoint import Checkpoint, prune, save
from scaled_sgd.runs.records import versions
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.train.interrupts import Wish
from scaled_sgd.train.snapshot import (
    Progressed,
    counts,
    observer_state,
    pieces,
    random_states,
    refused,
    restore_counts,
    restore_pieces,
    restore_random_states,
)
from scaled_sgd.train.strategies import Strategy


class Logged(Protocol):
    """The parts of a run's record that a checkpoint stores."""

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        ...

    @property
    def metrics_bytes(self) -> int:
        """Length of the metrics file; flushed to the disk on return."""
        ...


class Saver:
    """Saves and restores everything that a run's next step and next measurement depend on.

    Args:
        config: resolved.
        data: the training data.
        strategy: the network in its layout.
        observer: the diagnostics, if any.
        schedule: η of each step.
        grad_scaler: the gradient scaler of mixed precision, if any.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        strategy: Strategy,
        observer: Observer | None,
        schedule: Schedule | MeasuredSchedule,
        grad_scaler: "torch.amp.GradScaler | None",
    ) -> None:
        self._config, self._data, self._strategy = config, data, strategy
        self._observer, self._schedule, self._grad_scaler = observer, schedule, grad_scaler
        self._kept = OPTIMIZERS[config.optim.optimizer].kept(config.optim)
        self._saved_at = time.monotonic()

    def wish(self) -> Wish:
        """A request to save, on rank 0, when the minutes between checkpoints are over."""
        minutes = self._config.checkpoint.every_minutes
        first = not dist.is_initialized() or dist.get_rank() == 0
        over = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return Wish.SAVE if first and over else Wish.NOTHING

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after ``step`` updates."""
        steps = self._config.optim.steps
        assert steps is not None
        return self._config.checkpoint.due(step, steps)

    def save(self, run: Path, progressed: Progressed, record: Logged) -> tuple[Path | None, str | None]:
        """Write a checkpoint below ``run`` and delete old ones; its path, or an error. Collective."""
        folder, checkpoint = run / "checkpoints", self._config.checkpoint
        try:
            progressed.seconds = record.seconds
            progressed.metrics_bytes = from_first_rank(lambda: _size(record))
            path = save(
                folder,
                progressed.step,
                pieces=pieces(self._strategy),
                private=random_states() | self._observed(),
                state=self._state(progressed),
            )
        except UserError as error:
            return None, str(error)
        finally:
            self._saved_at = time.monotonic()
        try:
            prune(folder, checkpoint.keep, checkpoint.keep_steps)
        except CheckpointError as error:
            return path, str(error)
        return path, None

    def restore(self, checkpoint: Checkpoint) -> Progressed:
        """Restore a checkpoint of any world and strategy; returns its progress.

        Bit for bit on the world and strategy that made it. On others, everything except the start vectors of
        eigenvalue searches, which then start fresh and converge within their tolerance.

        Raises:
            UserError: it belongs to another network, or a state in it has a wrong form.
        """
        state = checkpoint.state
        restore_pieces(self._strategy, checkpoint, kept=(*self._kept.tensors,))
        restore_counts(self._strategy, state.get("optimizer") or {}, self._kept.counts)
        scaling = self._config.scaling
        if (scaling.rule, scaling.static) == (state["scaling"]["rule"], state["scaling"]["static"]):
            scales = state["scaling"]["scales"]
            numbers = None if scales is None else torch.tensor(scales, dtype=torch.float64)
            self._strategy.scaling.load_state_dict(state["scaling"] | {"scales": numbers})
        self._restore_peak(checkpoint)
        if isinstance(self._schedule, MeasuredSchedule) and state.get("schedule") is not None:
            self._schedule.load(state["schedule"])
        if self._grad_scaler is not None and state.get("grad_scaler") is not None:
            with refused(checkpoint, "grad_scaler"):
                self._grad_scaler.load_state_dict(state["grad_scaler"])
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        same_world = checkpoint.world_size == size and state.get("strategy") == self._strategy.name
        private = checkpoint.private(rank if same_world else 0)
        if same_world:
            with refused(checkpoint, "random states"):
                restore_random_states(private)
            saved, asked = state.get("exchange"), self._config.sharding.exchange
            if saved is not None and self._strategy.exchange is not None and asked == "auto":
                # A new measurement could give another choice, and so another rounding of sums.
                self._strategy.exchange = saved
        if self._observer is not None:
            device = self._strategy.device
            before = completed(state["config"])
            same_probe = before["diagnostics.samples"] == self._config.diagnostics.samples
            same_data = changed_fact(state["data"], self._data_facts) is None
            if before["diagnostics.every"] and same_probe and same_data:
                with refused(checkpoint, "state of diagnostics"):
                    self._observer.load_state_dict(observer_state(private, device, starts=same_world))
        return Progressed(**state["progressed"])

    def _restore_peak(self, checkpoint: Checkpoint) -> None:
        """Keep the unit that the run found at its start, where its rate is relative to that."""
        edges, peak = self._config.optim.lr_in_edges, checkpoint.state.get("peak")
        if edges is None:
            return
        before = completed(checkpoint.state["config"])["optim.lr_in_edges"]
        if before is None or peak is None:
            raise UserError(
                f"optim.lr_in_edges: {edges:g} is relative to the sharpness at the start, which "
                f"{str(checkpoint.path)!r} does not tell; allowed: null, with optim.lr"
            )
        self._schedule.peak = peak * (edges / before)

    @cached_property
    def _data_facts(self) -> dict[str, Any]:
        return data_facts(self._data)

    def _observed(self) -> dict[str, torch.Tensor]:
        return {} if self._observer is None else self._observer.state_dict()

    def _state(self, progressed: Progressed) -> dict[str, Any]:
        scaling = self._strategy.scaling.state_dict()
        scales = scaling["scales"]
        return {
            "progressed": progressed.as_dict(),
            "config": as_dict(self._config),
            "data": self._data_facts,
            "strategy": self._strategy.name,
            "exchange": None if self._strategy.exchange is None else list(self._strategy.exchange),
            "scaling": scaling | {"scales": None if scales is None else scales.tolist()},
            "schedule": self._schedule.state() if isinstance(self._schedule, MeasuredSchedule) else None,
            "peak": None if self._config.optim.lr_in_edges is None else self._schedule.peak,
            "grad_scaler": None if self._grad_scaler is None else self._grad_scaler.state_dict(),
            "optimizer": counts(self._strategy, self._kept.counts),
            "pipeline": self._data.pipeline.as_dict(),
            "versions": versions(),
        }


def _size(record: Logged) -> int:
    """Length of the metrics in bytes, flushed to the disk.

    Raises:
        UserError: the disk reports an error.
    """
    try:
        return record.metrics_bytes
    except OSError as error:
        raise UserError(f"metrics: cannot be written: {error.strerror}; allowed: a disk with room") from error
