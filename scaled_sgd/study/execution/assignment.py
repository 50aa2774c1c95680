"""The work of one job of a study: its share of the runs."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scaled_sgd.parallel.endings import end_with
from scaled_sgd.study.execution.jobs import note_begin, note_end
from scaled_sgd.study.execution.launches import stop_launched
from scaled_sgd.study.grid import Run

MAX_TIMEOUTS = 1000
"""How often a job that ran out of time is requeued. It resumes each time."""

Command = Callable[[Sequence[str]], int]
"""``scaled-sgd study`` as a function of its arguments; its exit status."""


@dataclass(frozen=True)
class Assignment:
    """What a job does with its share of the runs. submitit pickles it, so it holds plain values.

    Attributes:
        command: ``scaled-sgd study``.
        arguments: arguments of ``run``, without those of the executor.
        seconds_to_save: time for a large run to save when the job must stop.
        study: process on this machine whose end also ends the job, as does that of its controller; None
            for a job on a cluster.
    """

    command: Command
    arguments: tuple[str, ...]
    seconds_to_save: float
    study: int | None = None

    def __call__(self, runs: Sequence[str]) -> int:
        """Run the command; returns its exit status."""
        if self.study is not None:
            # submitit would ignore this signal.
            signal.signal(signal.SIGTERM, _stop)
            # Not by a signal that raises an exception, which may be lost. Large runs save by themselves.
            for process in (self.study, os.getppid()):
                end_with(process, signal.SIGKILL)
        note_begin()
        status = self.command(["run", *self.arguments, "--share", ",".join(runs)])
        note_end(status)
        return status

    def checkpoint(self, runs: Sequence[str]) -> Any:
        """What submitit requeues after a preemption or a time-out: the same assignment."""
        import submitit

        stop_launched(self.seconds_to_save)
        return submitit.helpers.DelayedSubmission(self, runs)


def _stop(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def shares(runs: Sequence[Run], jobs: int) -> list[list[str]]:
    """Ids of the runs of each job: every ``jobs``-th by length, so that jobs take about equally long."""
    longest_first = [run.id for run in sorted(runs, key=lambda run: -run.work)]
    return [longest_first[job::jobs] for job in range(jobs)]
