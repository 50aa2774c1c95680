"""Steppers of the loop: for one network; studies have one for stacks."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from scaled_sgd.data import Batch
from scaled_sgd.parallel import Ranks
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.steps.step import Taken
from scaled_sgd.train.session import Session
from scaled_sgd.train.steps import StepFunction


class Stepper(Protocol):
    """Takes the steps of one network, or of several of one shape together.

    Attributes:
        ranks: the processes with losses of different samples.
    """

    ranks: Ranks

    def take(self, step: int, batches: Sequence[Batch], *, measure: bool) -> Taken:
        """Take a step of each network on its minibatch, which they may share. Collective."""
        ...

    def see(self, losses: Sequence[Tensor]) -> None:
        """Record each network's losses after the last step, which no step reports. Collective."""
        ...

    def found(self) -> Sequence[tuple[int, int] | None]:
        """(step, layer) of each network's first non-finite number; l + 1 is the loss. Collective."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with some networks only."""
        ...

    def end(self) -> None:
        """Take no further step."""
        ...


class OneNetwork:
    """The steps of one network.

    Args:
        session: the session that trains.
        step: takes the steps.
        watch: watches them for divergence.
    """

    def __init__(self, session: Session, step: StepFunction, watch: DivergenceWatch) -> None:
        self._session, self._step, self._watch = session, step, watch
        self._loss = session.strategy.network.depth + 1
        self.ranks = Ranks.alone() if step.whole else session.strategy.data

    def take(self, step: int, batches: Sequence[Batch], *, measure: bool) -> Taken:
        """Take a step on the only one of ``batches``. Collective."""
        (batch,) = batches
        self._watch.start_step(step)
        x, y = batch.whole() if self._step.whole else batch.own()
        return self._step(x, y, batch.n_global, self._session.schedule(step), measure=measure)

    def see(self, losses: Sequence[Tensor]) -> None:
        """Record the loss after the last step."""
        self._watch.see(losses[:1], self._loss)

    def found(self) -> list[tuple[int, int] | None]:
        """Step and layer of the first non-finite number. Collective."""
        return [self._watch.found()]

    def keep(self, rows: Sequence[int]) -> None:
        """No-op: either the only network is kept or the loop is over."""

    def end(self) -> None:
        """Take no further step."""
        self._step.end()
