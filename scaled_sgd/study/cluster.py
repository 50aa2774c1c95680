"""A study as an array of jobs, through submitit: the same file, another machine.

Of the runs that have not ended, by length, job i of N does the i-th, the (i + N)-th and so on. A job that is
preempted or times out is queued again and goes on where it was: ended runs are skipped, large ones resumed.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel.machine import cores
from scaled_sgd.study.grid import Run
from scaled_sgd.study.jobs import FOLDER, note_begin, note_end, record
from scaled_sgd.study.launches import stop_launched

_MAX_TIMEOUTS = 1000
"""How often a job that ran out of time is queued again. Each time it goes on where it was."""

_SECONDS_OF_WARNING = 120
_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Cluster:
    """Where jobs go.

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


class Share:
    """What one job does: a part of the study's runs. submitit stores it, so it holds plain values.

    Args:
        arguments: of ``scaled-sgd study run``, without those of the executor.
        runs: their ids.
        seconds_to_save: that a large run has when the job must stop.
    """

    def __init__(self, arguments: Sequence[str], runs: Sequence[str], seconds_to_save: float) -> None:
        self.arguments, self.runs, self.seconds_to_save = list(arguments), list(runs), seconds_to_save

    def __call__(self) -> int:
        """Do it; the exit status of ``scaled-sgd study run``."""
        from scaled_sgd.study.command import main

        note_begin()
        status: int = main(["run", *self.arguments, "--share", ",".join(self.runs)])
        note_end(status)
        return status

    def checkpoint(self, *_arguments: Any) -> Any:
        """What submitit queues again after a preemption or a time-out: the same."""
        import submitit

        stop_launched(self.seconds_to_save)
        return submitit.helpers.DelayedSubmission(self)


def shares(runs: Sequence[Run], jobs: int) -> list[list[str]]:
    """Ids of the runs of each job: every ``jobs``-th by length, so that jobs take about as long."""
    longest_first = [run.id for run in sorted(runs, key=lambda run: -run.work)]
    return [longest_first[job::jobs] for job in range(jobs)]


def submit(cluster: Cluster, folder: Path, arguments: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Submit all jobs; their ids. Local ones are waited for, and end with this.

    Args:
        cluster: where to.
        folder: of the study.
        arguments: of ``scaled-sgd study run``, without those of the executor.
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
    to_save = 0.75 * cluster.warning
    parts = [Share(arguments, mine, to_save) for mine in shares(runs, cluster.jobs)]
    logs = folder / FOLDER
    logs.mkdir(exist_ok=True)
    try:
        if cluster.executor == "local":
            return list(_bounded(cluster, logs, parts))
        executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=_MAX_TIMEOUTS)
        executor.update_parameters(**_parameters(cluster, folder.name))
        with executor.batch():
            jobs = [executor.submit(part) for part in parts]
        names = [str(job.job_id) for job in jobs]
    except (RuntimeError, ValueError, TypeError, NameError, submitit.core.utils.FailedJobError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"executor: {cluster.executor!r}: {reason}; allowed: local, slurm where it is"
        ) from error
    record(logs, "slurm", names)
    return names


def visible_gpus() -> list[int]:
    """Numbers of the GPUs of this machine that its jobs may have."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    numbers = [int(name) for name in named if name.strip().isdigit()]
    return numbers if len(numbers) == there else list(range(there))


def _parameters(cluster: Cluster, name: str) -> dict[str, Any]:
    given = dict(cluster.parameters or {})
    return {
        "job_name": f"study-{name}",
        "time": cluster.minutes,
        "signal_delay_s": cluster.warning,
        "array_parallelism": cluster.at_once or cluster.jobs,
        # srun does not take the cores of a task from sbatch.
        **({"srun_args": [f"--cpus-per-task={given['cpus_per_task']}"]} if "cpus_per_task" in given else {}),
        **given,
    }


def _bounded(cluster: Cluster, logs: Path, parts: Sequence[Share]) -> Iterator[str]:
    """Local jobs, so many at a time, since submitit starts all at once; each with a GPU if there is one."""
    import submitit

    gpus = visible_gpus()
    slots: list[Any] = [None] * cluster.side_by_side
    waiting = list(parts)
    try:
        while waiting or any(slots):
            for slot, job in enumerate(slots):
                if job is not None and job.done():
                    slots[slot] = None
                if slots[slot] is None and waiting:
                    executor = submitit.LocalExecutor(folder=logs, max_num_timeout=_MAX_TIMEOUTS)
                    mine = [gpus[slot % len(gpus)]] if gpus else []
                    executor.update_parameters(
                        timeout_min=cluster.minutes,
                        signal_delay_s=cluster.warning,
                        gpus_per_node=len(mine),
                        visible_gpus=mine,
                    )
                    with _errors_to(logs / "controllers.log"):
                        slots[slot] = executor.submit(waiting.pop(0))
                    record(logs, "local", [str(slots[slot].job_id)])
                    yield str(slots[slot].job_id)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        for job in slots:
            if job is not None:
                job.cancel()
        while any(job is not None and not job.done() for job in slots):
            time.sleep(_SECONDS_BETWEEN_LOOKS)


@contextlib.contextmanager
def _errors_to(path: Path) -> Iterator[None]:
    """Have processes that are started here write their errors to a file: submitit's end in a traceback."""
    ours = os.dup(2)
    theirs = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(theirs, 2)
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)
        os.close(theirs)
