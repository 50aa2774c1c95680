"""A study as an array of jobs, through submitit: the same file, another machine.

Of the runs that have not ended, by length, job i of N does the i-th, the (i + N)-th and so on. A job that is
preempted or times out is queued again and goes on where it was: ended runs are skipped, large ones resumed.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel.machine import cores
from scaled_sgd.study.execution.endings import end_with
from scaled_sgd.study.execution.jobs import FOLDER, note_begin, note_end, record
from scaled_sgd.study.execution.launches import stop_launched
from scaled_sgd.study.grid import Run

_MAX_TIMEOUTS = 1000
"""How often a job that ran out of time is queued again. Each time it goes on where it was."""

_SECONDS_OF_WARNING = 120
_SECONDS_BETWEEN_LOOKS = 0.2

Command = Callable[[Sequence[str]], int]
"""``scaled-sgd study`` as a function of its arguments; its exit status."""


@dataclass(frozen=True)
class Submission:
    """Which jobs there are, and where they go.

    Attributes:
        executor: ``local``: processes of this machine; ``slurm``.
        jobs: how many share the runs.
        at_once: of them at the same time; None: all (slurm), or one a GPU or a core (local).
        minutes: that a job may take before it is queued again.
        parameters: for Slurm, by submitit's names without ``slurm_``, such as partition or gpus_per_node.
    """

    executor: str
    jobs: int
    at_once: int | None = None
    minutes: int = 60
    parameters: Mapping[str, Any] | None = None

    @property
    def warning(self) -> int:
        """Seconds before its end in which a job is told to stop."""
        return min(_SECONDS_OF_WARNING, 30 * self.minutes)

    @property
    def cores(self) -> int:
        """That a job has, as far as it is known."""
        asked = (self.parameters or {}).get("cpus_per_task", 1)
        return asked if self.executor == "slurm" and isinstance(asked, int) else 1

    @property
    def side_by_side(self) -> int:
        """How many jobs run at the same time, as far as it is known."""
        here = len(visible_gpus()) or cores()
        most = self.at_once or (here if self.executor == "local" else self.jobs)
        return min(most, self.jobs)


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


def submit(
    submission: Submission, folder: Path, command: Command, arguments: Sequence[str], runs: Sequence[Run]
) -> list[str]:
    """Submit all jobs; their ids. Local ones are waited for, and end with this process.

    Args:
        submission: where to.
        folder: of the study.
        command: ``scaled-sgd study``.
        arguments: of its ``run``, without those of the executor.
        runs: that are to be done, each once.

    Raises:
        UserError: submitit is not installed, there is no Slurm, or it refuses.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            "executor: submitit is not installed; allowed: pip install 'scaled-sgd[study]'"
        ) from None
    logs, parts = folder / FOLDER, shares(runs, submission.jobs)
    logs.mkdir(exist_ok=True)
    local = submission.executor == "local"
    job = Assignment(command, tuple(arguments), 0.75 * submission.warning, os.getpid() if local else None)
    try:
        if local:
            return list(_local_jobs(submission, logs, job, parts))
        executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=_MAX_TIMEOUTS)
        executor.update_parameters(**_parameters(submission, folder.name))
        names = [str(submitted.job_id) for submitted in executor.map_array(job, parts)]
    except (RuntimeError, ValueError, TypeError, NameError, submitit.core.utils.FailedJobError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"executor: {submission.executor!r}: {reason}; allowed: local, slurm where it is"
        ) from error
    record(logs, "slurm", names)
    return names


def visible_gpus() -> list[int]:
    """Numbers of the GPUs of this machine that its jobs may have."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    numbers = [int(name) for name in named if name.strip().isdigit()]
    return numbers if len(numbers) == there else list(range(there))


def _parameters(submission: Submission, name: str) -> dict[str, Any]:
    given = dict(submission.parameters or {})
    return {
        "job_name": f"study-{name}",
        "time": submission.minutes,
        "signal_delay_s": submission.warning,
        "array_parallelism": submission.at_once or submission.jobs,
        # srun does not take the cores of a task from sbatch.
        **({"srun_args": [f"--cpus-per-task={given['cpus_per_task']}"]} if "cpus_per_task" in given else {}),
        **given,
    }


def _local_jobs(
    submission: Submission, logs: Path, job: Assignment, parts: Sequence[Sequence[str]]
) -> Iterator[str]:
    """Local jobs, so many at a time, since submitit starts all at once; each with a GPU if there is one."""
    import submitit

    gpus, slots, stopped = visible_gpus(), SimpleQueue[int](), threading.Event()
    for slot in range(submission.side_by_side):
        slots.put(slot)

    def make(runs: Sequence[str]) -> str:
        slot = slots.get()
        mine = [gpus[slot % len(gpus)]] if gpus else []
        executor = submitit.LocalExecutor(folder=logs, max_num_timeout=_MAX_TIMEOUTS)
        executor.update_parameters(
            timeout_min=submission.minutes,
            signal_delay_s=submission.warning,
            gpus_per_node=len(mine),
            visible_gpus=mine,
        )
        submitted = executor.submit(job, runs)
        name = str(submitted.job_id)
        record(logs, "local", [name])
        while not submitted.done():
            if stopped.is_set():
                # Its controller passes it on, from the moment that it can.
                os.kill(int(name), signal.SIGTERM)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        slots.put(slot)
        return name

    # Jobs do not see Ctrl-C, which would end their controllers in a traceback: they are told.
    ignored = (signal.SIG_BLOCK, {signal.SIGINT})
    with ThreadPoolExecutor(submission.side_by_side, "", signal.pthread_sigmask, ignored) as threads:
        try:
            yield from threads.map(make, parts)
        finally:
            stopped.set()
