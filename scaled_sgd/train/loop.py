"""The loop over minibatches that every run goes through, by itself or in a stack of runs.

What is due before a step (evaluation, diagnostics), the step, its row, what comes after it (callbacks); at
the end a last look at the weights, an evaluation and the outcome. Runs differ in what takes their steps, in
where their rows go and in what is done between steps.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from scaled_sgd.data import Batch
from scaled_sgd.parallel import Ranks
from scaled_sgd.runs import rows
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.train.losses import Losses
from scaled_sgd.train.session import Session
from scaled_sgd.train.snapshot import Progressed
from scaled_sgd.train.steps import Step, Taken


class Stepper(Protocol):
    """Takes the steps of one network, or of several of one shape together.

    Attributes:
        ranks: the processes that bring the losses of different samples.
    """

    ranks: Ranks

    def take(self, step: int, batches: Sequence[Batch], *, measure: bool) -> Taken:
        """A step of each network on its minibatch, perhaps the same for all. Collective."""
        ...

    def see(self, losses: Sequence[Tensor]) -> None:
        """Note each network's losses after the last step, which no step has told yet."""
        ...

    def found(self) -> Sequence[tuple[int, int] | None]:
        """(step, layer) of each network's first number that was not finite; l + 1 is the loss. Collective."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with some networks only."""
        ...


class OneNetwork:
    """The steps of one network.

    Args:
        session: what trains.
        step: takes the steps.
        watch: sees them.
    """

    def __init__(self, session: Session, step: Step, watch: DivergenceWatch) -> None:
        self._session, self._step, self._watch = session, step, watch
        self._loss = session.strategy.network.depth + 1
        self.ranks = Ranks.alone() if step.whole else session.strategy.data

    def take(self, step: int, batches: Sequence[Batch], *, measure: bool) -> Taken:
        """A step on the only one of ``batches``. Collective."""
        (batch,) = batches
        self._watch.start_step(step)
        x, y = batch.whole() if self._step.whole else batch.own
        taken = self._step(x, y, batch.n_global, self._session.schedule(step), measure=measure)
        self._watch.see(taken.loss, self._loss)
        return taken

    def see(self, losses: Sequence[Tensor]) -> None:
        """Note the loss after the last step."""
        self._watch.see(losses[0], self._loss)

    def found(self) -> list[tuple[int, int] | None]:
        """Step and layer of the first number that was not finite. Collective."""
        return [self._watch.found()]

    def keep(self, rows: Sequence[int]) -> None:
        """Nothing: one network is kept or the loop is over."""


class Record(Protocol):
    """Where rows and the outcome of a run go."""

    @property
    def seconds(self) -> float:
        """Of training so far."""
        ...

    def row(self, row: dict[str, Any]) -> None:
        """Take a row."""
        ...

    def end(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Take the outcome of the run; its summary. May raise what ends a diverged run."""
        ...


class Callback(Protocol):
    """Something done between steps."""

    def after_step(self, step: int) -> None:
        """Called when ``step`` updates have been made. Collective."""
        ...

    def after_steps(self) -> None:
        """Called after the last one. Collective."""
        ...


class Loop:
    """Trains one session, or several of one shape together.

    Args:
        sessions: what trains; all have as many steps, and rows at the same ones.
        stepper: takes the steps of all.
        records: of each session.
        at: where the runs are; at their start when None.

    Attributes:
        at: where the runs are: the next step and minibatch.
        losses: of those that still train.
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
        self._sessions, self._stepper, self._records = list(sessions), stepper, list(records)
        self.callbacks: Sequence[Callback] = ()
        self.at = at = Progressed() if at is None else at
        largest = -math.inf if at.max_loss is None else at.max_loss
        on_cpu = sessions[0].strategy.device.type == "cpu"
        self.losses = Losses(stepper.ranks, on_cpu=on_cpu, largest=[largest for _ in sessions])
        self._first_losses = [at.first_loss for _ in sessions]
        self._places = list(range(len(sessions)))
        self._summaries: dict[int, dict[str, Any]] = {}

    def run(self) -> list[dict[str, Any]]:
        """Train to the end; the summaries of all sessions, in order. Collective."""
        at = self.at
        for batches in self._minibatches():
            measure = self._sessions[0].logs(at.step)
            if measure:
                # Nothing is measured of a network that is lost.
                self._leave_lost()
            if not self._places:
                break
            own = [batches[place] for place in self._places]
            measured = [self._before(place, batches[place]) for place in self._places] if measure else []
            taken = self._stepper.take(at.step, own, measure=measure)
            self.losses.add(taken.loss, taken.n)
            if measure:
                self._log(own, measured, taken)
            if measure or self.losses.live:
                self._leave_lost()
            at.pass_by(batches[0])
            for callback in self.callbacks:
                callback.after_step(at.step)
        for callback in self.callbacks:
            callback.after_steps()
        if self._places:
            seconds = [record.seconds for record in self._records]
            self.look()
            for row, place in enumerate(self._places):
                self._finish(place, self.losses.largest[row], seconds[place])
        return [self._summaries[place] for place in range(len(self._sessions))]

    def look(self) -> None:
        """Have the networks leave of which an update, up to the last one, left no finite loss. Collective."""
        self._stepper.see([self._sessions[place].probe_loss() for place in self._places])
        self._leave([True for _ in self._places])

    def progressed(self) -> Progressed:
        """Where the only run is, all its losses read. Collective."""
        self.losses.read()
        self.at.max_loss = self.losses.largest[0]
        return self.at

    def _minibatches(self) -> Iterator[list[Batch]]:
        """The minibatch of each session, for every step; sessions of one data set and seed share theirs."""
        sources: dict[tuple[int, int], Iterator[Batch]] = {}
        keys = [(id(session.data), session.config.run.seed) for session in self._sessions]
        for key, session in zip(keys, self._sessions, strict=True):
            if key not in sources:
                ranks, at = session.strategy.data, self.at
                sources[key] = session.samples.minibatches(ranks, epoch=at.epoch, start=at.minibatch)
        while self.at.step < self._sessions[0].steps:
            found = {key: next(source) for key, source in sources.items()}
            yield [found[key] for key in keys]

    def _before(self, place: int, batch: Batch) -> dict[str, Any]:
        """What is measured before a step that has a row."""
        session, step = self._sessions[place], self.at.step
        measured: dict[str, Any] = session.evaluate() if session.evaluates(step) else {}
        return (
            measured | session.observe(batch, session.schedule(step)) if session.observes(step) else measured
        )

    def _log(self, batches: Sequence[Batch], measured: Sequence[dict[str, Any]], taken: Taken) -> None:
        """The rows of a step that was taken."""
        at, count = self.at, len(self._places)
        self.losses.read()
        norms, scales, ranks = (
            [None] * count if found is None else found.reshape(count, -1).tolist()
            for found in (taken.grad_norm, taken.scales, taken.soft_ranks)
        )
        for row, place in enumerate(self._places):
            session, batch, record = self._sessions[place], batches[row], self._records[place]
            if session.observes(at.step):
                measured[row]["loss_after"] = session.loss_on(batch)
            if at.step == 0:
                self._first_losses[place] = self.losses.last[row]
            norm = norms[row]
            record.row(
                rows.step_row(
                    measured[row],
                    step=at.step,
                    epoch=session.samples.passed(batch),
                    samples=at.samples,
                    lr=session.schedule(at.step),
                    loss=self.losses.last[row],
                    max_loss=self.losses.largest[row],
                    grad_norm=None if norm is None else norm[0],
                    scales=scales[row],
                    soft_ranks=ranks[row],
                    seconds=record.seconds,
                )
            )
        at.first_loss, at.last_loss = self._first_losses[self._places[0]], self.losses.last[0]

    def _leave_lost(self) -> None:
        """Have networks leave whose loss was not finite. Collective."""
        self.losses.read()
        finite = self.losses.finite
        if not all(finite):
            self._leave([not is_finite for is_finite in finite])

    def _leave(self, asked: Sequence[bool]) -> None:
        """Have those of the networks asked for leave of which a number was not finite. Collective."""
        found = self._stepper.found()
        lost = [bad if is_asked else None for bad, is_asked in zip(found, asked, strict=True)]
        for place, bad in zip(self._places, lost, strict=True):
            if bad is not None:
                self._lose(place, *bad)
        kept = [row for row, bad in enumerate(lost) if bad is None]
        if len(kept) < len(lost):
            self._places = [self._places[row] for row in kept]
            self.losses.keep(kept)
            if kept:
                self._stepper.keep(kept)

    def _lose(self, place: int, step: int, k: int) -> None:
        session, record = self._sessions[place], self._records[place]
        layer = k if k <= session.strategy.network.depth else None
        first = self._first_losses[place]
        outcome = rows.diverged(step, layer, initial_loss=first, seconds=record.seconds)
        self._summaries[place] = record.end(outcome)

    def _finish(self, place: int, largest: float, seconds: float) -> None:
        session, record = self._sessions[place], self._records[place]
        evaluation = session.evaluate()
        record.row(rows.last_row(session.steps, seconds, evaluation))
        train_loss = session.train_loss()
        outcome = rows.finished(
            session.steps,
            initial_loss=self._first_losses[place],
            max_loss=None if largest == -math.inf else largest,
            train_loss=self.at.last_loss if train_loss is None else train_loss,
            evaluation=evaluation,
            seconds=seconds,
        )
        self._summaries[place] = record.end(outcome)
