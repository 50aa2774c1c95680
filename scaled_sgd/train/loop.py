"""The training loop of every run, single or in a stack.

Evaluation and diagnostics that are due, the step, its row, callbacks; at the end a last check of the weights,
an evaluation and the outcome. Runs differ in their stepper, their record and their callbacks.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from scaled_sgd.data import Batch
from scaled_sgd.runs import rows
from scaled_sgd.steps.step import Taken
from scaled_sgd.train.losses import Losses
from scaled_sgd.train.session import Session
from scaled_sgd.train.snapshot import Progressed
from scaled_sgd.train.stepper import Stepper


class Record(Protocol):
    """The destination of a run's rows and outcome."""

    @property
    def seconds(self) -> float:
        """Of training so far."""
        ...

    def row(self, row: dict[str, Any]) -> None:
        """Write a row."""
        ...

    def end(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Write the outcome; returns the summary. May raise an error that ends a diverged run."""
        ...


class Callback(Protocol):
    """An action between steps."""

    def after_step(self, step: int) -> None:
        """Called after ``step`` updates. Collective."""
        ...

    def after_steps(self) -> None:
        """Called after the last update. Collective."""
        ...


@dataclass
class _Run:
    """A run that still trains: its index among all, and the loss of its step 0."""

    place: int
    session: Session
    record: Record
    first_loss: float | None


class Loop:
    """Trains one session, or several of one shape together.

    Args:
        sessions: the sessions; all have the same number of steps, and rows at the same steps.
        stepper: takes the steps of all.
        records: the record of each session.
        at: the position to start from; None: the start.

    Attributes:
        at: the current position: next step and minibatch.
        losses: losses of the runs that still train.
        callbacks: called after each step, in order.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        stepper: Stepper,
        records: Sequence[Record],
        *,
        at: Progressed | None = None,
    ) -> None:
        self._stepper = stepper
        self.callbacks: Sequence[Callback] = ()
        self.at = at = Progressed() if at is None else at
        self._runs = [
            _Run(place, session, record, at.first_loss)
            for place, (session, record) in enumerate(zip(sessions, records, strict=True))
        ]
        largest = -math.inf if at.max_loss is None else at.max_loss
        on_cpu = sessions[0].strategy.device.type == "cpu"
        self.losses = Losses(stepper.ranks, on_cpu=on_cpu, largest=[largest for _ in sessions])
        self._summaries: dict[int, dict[str, Any]] = {}

    def run(self) -> list[dict[str, Any]]:
        """Train to the end; returns the summaries of all sessions, in order. Collective."""
        at, first = self.at, self._runs[0].session
        for batches in self._minibatches(first.steps):
            measure = first.logs(at.step)
            if measure:
                # Diverged networks are not measured.
                self._leave_lost()
            if not self._runs:
                break
            own = [batches[run.place] for run in self._runs]
            for run, batch in zip(self._runs, own, strict=True):
                run.session.adapt(at.step, batch)
            measured = [self._before(*pair) for pair in zip(self._runs, own, strict=True)] if measure else []
            taken = self._stepper.take(at.step, own, measure=measure)
            self.losses.add(taken.loss, taken.n)
            if measure:
                self._log(own, measured, taken)
            if self.losses.live or measure:
                self._leave_lost()
            at.pass_by(batches[0])
            for callback in self.callbacks:
                callback.after_step(at.step)
        for callback in self.callbacks:
            callback.after_steps()
        seconds = [run.record.seconds for run in self._runs]
        self.look()
        for run, largest, spent in zip(self._runs, self.losses.largest, seconds, strict=False):
            self._finish(run, largest, spent)
        return [summary for _, summary in sorted(self._summaries.items())]

    def look(self) -> None:
        """Remove networks whose loss is non-finite after any update, including the last. Collective."""
        if self._runs:
            self._stepper.see([run.session.probe_loss() for run in self._runs])
            self._leave([True for _ in self._runs])

    def progressed(self) -> Progressed:
        """The position of the only run, with all its losses read. Collective."""
        self.losses.read()
        self.at.max_loss = self.losses.largest[0]
        return self.at

    def _minibatches(self, steps: int) -> Iterator[list[Batch]]:
        """The minibatch of each session, for every step; sessions with equal data and seed share theirs."""
        sources: dict[tuple[int, int, int], Iterator[Batch]] = {}
        # Targets of centred networks have their own f_0.
        keys = [
            (id(session.data), session.config.run.seed, session.config.model.centered * id(session))
            for session in (run.session for run in self._runs)
        ]
        for key, run in zip(keys, self._runs, strict=True):
            if key not in sources:
                samples, ranks = run.session.samples, run.session.strategy.data
                sources[key] = samples.minibatches(ranks, epoch=self.at.epoch, start=self.at.minibatch)
        while self.at.step < steps:
            found = {key: next(source) for key, source in sources.items()}
            yield [found[key] for key in keys]

    def _before(self, run: _Run, batch: Batch) -> dict[str, Any]:
        """Measurements before a step that has a row."""
        session, step = run.session, self.at.step
        measured: dict[str, Any] = {}
        if session.evaluates(step):
            measured |= session.evaluate()
        if session.observes(step):
            measured |= session.observe(batch, session.schedule(step))
        return measured

    def _log(self, batches: Sequence[Batch], measured: Sequence[dict[str, Any]], taken: Taken) -> None:
        """Write the rows of a step."""
        at, losses, count = self.at, self.losses, len(self._runs)
        losses.read()
        scales = taken.scales.reshape(count, -1).tolist()
        norms, soft_ranks = (
            [None] * count if found is None else found.reshape(count, -1).tolist()
            for found in (taken.grad_norm, taken.soft_ranks)
        )
        for row, run in enumerate(self._runs):
            session, norm = run.session, norms[row]
            if session.observes(at.step):
                measured[row]["loss_after"] = session.loss_on(batches[row])
            if at.step == 0:
                run.first_loss = losses.last[row]
            run.record.row(
                rows.step_row(
                    measured[row],
                    step=at.step,
                    epoch=session.samples.passed(batches[row].epoch, batches[row].number),
                    samples=at.samples,
                    lr=session.schedule(at.step),
                    loss=losses.last[row],
                    max_loss=losses.largest[row],
                    grad_norm=None if norm is None else norm[0],
                    scales=scales[row],
                    soft_ranks=soft_ranks[row],
                    seconds=run.record.seconds,
                )
            )
        at.first_loss, at.last_loss = self._runs[0].first_loss, losses.last[0]

    def _leave_lost(self) -> None:
        """Remove networks with a non-finite loss. Collective."""
        self.losses.read()
        finite = self.losses.finite
        if not all(finite):
            self._leave([not is_finite for is_finite in finite])

    def _leave(self, asked: Sequence[bool]) -> None:
        """Remove those of the given networks that have a non-finite number. Collective."""
        self.losses.read()
        kept = []
        for row, (run, is_asked, bad) in enumerate(
            zip(self._runs, asked, self._stepper.found(), strict=True)
        ):
            if is_asked and bad is not None:
                self._lose(run, *bad)
            else:
                kept.append(row)
        if len(kept) < len(self._runs):
            self._runs = [self._runs[row] for row in kept]
            self.losses.keep(kept)
            if kept:
                self._stepper.keep(kept)

    def _lose(self, run: _Run, step: int, k: int) -> None:
        layer = k if k <= run.session.strategy.network.depth else None
        outcome = rows.diverged(step, layer, initial_loss=run.first_loss, seconds=run.record.seconds)
        self._summaries[run.place] = run.record.end(outcome)

    def _finish(self, run: _Run, largest: float, seconds: float) -> None:
        session = run.session
        evaluation, train_loss = session.evaluate(), session.train_loss()
        max_loss = None if largest == -math.inf else largest
        run.record.row(
            rows.last_row(
                session.steps,
                epoch=session.samples.passed(self.at.epoch, self.at.minibatch),
                samples=self.at.samples,
                train_loss=train_loss,
                max_loss=max_loss,
                evaluation=evaluation,
                seconds=seconds,
            )
        )
        outcome = rows.finished(
            session.steps,
            initial_loss=run.first_loss,
            max_loss=max_loss,
            train_loss=self.at.last_loss if train_loss is None else train_loss,
            evaluation=evaluation,
            seconds=seconds,
        )
        self._summaries[run.place] = run.record.end(outcome)
