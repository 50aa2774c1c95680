"""Submits a study as an array of jobs through submitit.

Of the pending runs, sorted by length, job i of N does the i-th, the (i + N)-th and so on. A job that is
preempted or times out is requeued and continues: ended runs are skipped, large ones resumed.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.text import escaped
from scaled_sgd.parallel.machine import cores
from scaled_sgd.runs.own_files import reason
from scaled_sgd.study.execution.assignment import MAX_TIMEOUTS, Assignment, Command, shares
from scaled_sgd.study.execution.jobs import FOLDER, new_folder, record
from scaled_sgd.study.execution.local_jobs import make_locally, visible_gpus
from scaled_sgd.study.grid import Run

_SECONDS_OF_WARNING = 120


@dataclass(frozen=True)
class Submission:
    """The jobs of a study and their executor.

    Attributes:
        executor: ``local``: processes on this machine; ``slurm``.
        jobs: number of jobs that share the runs.
        at_once: number of jobs at the same time; None: all (slurm), or one per GPU or core (local).
        minutes: time limit of a job, after which it is requeued.
        parameters: for Slurm, by submitit's names without ``slurm_``, such as partition or gpus_per_node.
    """

    executor: str
    jobs: int
    at_once: int | None = None
    minutes: int = 60
    parameters: Mapping[str, Any] | None = None

    @property
    def warning(self) -> int:
        """Seconds before its time limit at which a job is told to stop."""
        return min(_SECONDS_OF_WARNING, 30 * self.minutes)

    @property
    def cores(self) -> int:
        """Number of cores of a job, as far as known."""
        asked = (self.parameters or {}).get("cpus_per_task", 1)
        return asked if self.executor == "slurm" and isinstance(asked, int) else 1

    @property
    def side_by_side(self) -> int:
        """Number of jobs that run at the same time, as far as known."""
        here = len(visible_gpus()) or cores()
        most = self.at_once or (here if self.executor == "local" else self.jobs)
        return min(most, self.jobs)


def submit(
    submission: Submission, folder: Path, command: Command, arguments: Sequence[str], runs: Sequence[Run]
) -> list[str]:
    """Submit all jobs; returns their ids. Waits for local jobs, which end with this process.

    Args:
        submission: jobs and executor.
        folder: folder of the study.
        command: ``scaled-sgd study``.
        arguments: arguments of its ``run``, without those of the executor.
        runs: the pending runs, each once.

    Raises:
        UserError: submitit is not installed, there is no Slurm, or it refuses.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            "executor: submitit is not installed; allowed: pip install 'scaled-sgd[study]'"
        ) from None
    logs, parts = _new_logs(folder), shares(runs, submission.jobs)
    local = submission.executor == "local"
    job = Assignment(command, tuple(arguments), 0.75 * submission.warning, os.getpid() if local else None)
    try:
        if local:
            return make_locally(
                job,
                parts,
                logs,
                at_once=submission.side_by_side,
                minutes=submission.minutes,
                warning=submission.warning,
            )
        executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=MAX_TIMEOUTS)
        executor.update_parameters(**_parameters(submission, folder.name))
        names = [str(submitted.job_id) for submitted in executor.map_array(job, parts)]
    except (RuntimeError, ValueError, TypeError, NameError, submitit.core.utils.FailedJobError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"executor: {submission.executor!r}: {reason}; allowed: local, slurm where it is"
        ) from error
    record(logs, "slurm", names)
    return names


def _new_logs(folder: Path) -> Path:
    """A new folder for the files of the jobs, whose path stands in their scripts."""
    if escaped(str(folder.absolute())) != str(folder.absolute()):
        raise UserError(
            f"dir: {str(folder)!r} is not usable for jobs; allowed: a path without control characters"
        )
    try:
        return new_folder(folder / FOLDER)
    except OSError as error:
        raise UserError(
            f"dir: cannot write in {str(folder)!r}: {reason(error)}; allowed: a writable folder"
        ) from error


def _parameters(submission: Submission, name: str) -> dict[str, Any]:
    given = dict(submission.parameters or {})
    return {
        "job_name": f"study-{name}",
        "time": submission.minutes,
        "signal_delay_s": submission.warning,
        "array_parallelism": submission.at_once or submission.jobs,
        # srun does not inherit the cores of a task from sbatch.
        **({"srun_args": [f"--cpus-per-task={given['cpus_per_task']}"]} if "cpus_per_task" in given else {}),
        **given,
    }
