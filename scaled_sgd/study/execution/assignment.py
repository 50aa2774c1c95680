"""What a job of a study does: its part of the runs."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scaled_sgd.study.execution.endings import end_with
from scaled_sgd.study.execution.jobs import note_begin, note_end
from scaled_sgd.study.execution.launches import stop_launched
from scaled_sgd.study.grid import Run

MAX_TIMEOUTS = 1000
"""How often a job that ran out of time is queued again. Each time it goes on where it was."""

Command = Callable[[Sequence[str]], int]
"""``scaled-sgd study`` as a function of its arguments; its exit status."""


@dataclass(frozen=True)
class Assignment:
    """What every job does with its part of the runs. submitit stores it, so it holds plain values.

    Attributes:
        command: ``scaled-sgd study``.
        arguments: of ``run``, without those of the executor.
        seconds_to_save: that a large run has when the job must stop.
        study: the process with which the job ends, on this machine; None for a job on a cluster.
    """

    command: Command
    arguments: tuple[str, ...]
    seconds_to_save: float
    study: int | None = None

    def __call__(self, runs: Sequence[str]) -> int:
        """Do it; the exit status of the command."""
        if self.study is not None:
            # submitit would ignore it.
            signal.signal(signal.SIGTERM, _stop)
            end_with(self.study, signal.SIGTERM)
        note_begin()
        status = self.command(["run", *self.arguments, "--share", ",".join(runs)])
        note_end(status)
        return status

    def checkpoint(self, runs: Sequence[str]) -> Any:
        """What submitit queues again after a preemption or a time-out: the same."""
        import submitit

        stop_launched(self.seconds_to_save)
        return submitit.helpers.DelayedSubmission(self, runs)


def _stop(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def shares(runs: Sequence[Run], jobs: int) -> list[list[str]]:
    """Ids of the runs of each job: every ``jobs``-th by length, so that jobs take about as long."""
    longest_first = [run.id for run in sorted(runs, key=lambda run: -run.work)]
    return [longest_first[job::jobs] for job in range(jobs)]
