"""A study as an array of jobs, through submitit: the same file, another machine.

Job i of N does runs i, i + N, i + 2N, … of the plan that have not ended. A job that is preempted or times out
is queued again and goes on where it was: ended runs are skipped, launched ones go on from their checkpoints.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaled_sgd.errors import UserError
from scaled_sgd.study.grid import Run


@dataclass(frozen=True)
class Cluster:
    """Where jobs go.

    Attributes:
        executor: ``local``: processes of this machine; ``slurm``.
        jobs: how many share the runs.
        at_once: of them at the same time; None: no limit (slurm), or one a core (local).
        minutes: that a job may take before it is queued again.
        parameters: for Slurm, by submitit's names without ``slurm_``, such as partition or gpus_per_node.
    """

    executor: str
    jobs: int
    at_once: int | None = None
    minutes: int = 60
    parameters: Mapping[str, Any] | None = None


class Share:
    """What one job does: a part of the study's runs. submitit stores it, so it holds plain values.

    Args:
        arguments: of ``scaled-sgd study run``, without those of the executor.
        job: from 0.
        jobs: how many.
    """

    def __init__(self, arguments: Sequence[str], job: int, jobs: int) -> None:
        self.arguments, self.job, self.jobs = list(arguments), job, jobs

    def __call__(self) -> int:
        """Do it; the exit status of ``scaled-sgd study run``."""
        from scaled_sgd.study.command import main

        status: int = main(["run", *self.arguments, "--share", f"{self.job}/{self.jobs}"])
        return status

    def checkpoint(self, *_arguments: Any) -> Any:
        """What submitit queues again after a preemption or a time-out: the same."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def share(runs: Sequence[Run], job: int, jobs: int) -> list[Run]:
    """Runs of job ``job`` of ``jobs``: every ``jobs``-th, so that all have long and short ones."""
    return list({run.id: run for run in runs}.values())[job::jobs]


def submit(cluster: Cluster, folder: Path, arguments: Sequence[str]) -> list[str]:
    """Submit all jobs; their ids. Local ones are waited for.

    Raises:
        UserError: submitit is not installed, there is no Slurm, or it refuses.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            "executor: submitit is not installed; allowed: pip install 'scaled-sgd[study]'"
        ) from None
    shares = [Share(arguments, job, cluster.jobs) for job in range(cluster.jobs)]
    logs = folder / "jobs"
    try:
        executor = submitit.AutoExecutor(folder=str(logs), cluster=cluster.executor)
        executor.update_parameters(**_parameters(cluster, folder.name))
        if cluster.executor == "local":
            return list(_bounded(executor, shares, cluster.at_once or 1))
        with executor.batch():
            jobs = [executor.submit(part) for part in shares]
        return [str(job.job_id) for job in jobs]
    except (RuntimeError, ValueError, TypeError, NameError, submitit.core.utils.FailedJobError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"executor: {cluster.executor!r}: {reason}; allowed: local, slurm where it is"
        ) from error


def _parameters(cluster: Cluster, name: str) -> dict[str, Any]:
    common: dict[str, Any] = {"timeout_min": cluster.minutes, "name": f"study-{name}"}
    if cluster.executor == "slurm":
        common |= {f"slurm_{key}": value for key, value in (cluster.parameters or {}).items()}
        if cluster.at_once is not None:
            common["slurm_array_parallelism"] = cluster.at_once
    return common


def _bounded(executor: Any, shares: Sequence[Share], at_once: int) -> Iterator[str]:
    """Local jobs, so many at a time: submitit itself starts all at once."""

    def finish(part: Share) -> str:
        job = executor.submit(part)
        with contextlib.suppress(Exception):
            while not job.done():
                time.sleep(0.2)
        return str(job.job_id)

    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(finish, shares)
