"""The jobs of a study: which were submitted, and their states."""

import contextlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scaled_sgd.parallel.endings import is_alive
from scaled_sgd.runs.records import write_atomically

Executor = Literal["local", "slurm"]

FOLDER = "jobs"
"""Folder of the jobs' scripts, logs and results, in the folder of a study."""

_RECORD = "submitted.jsonl"


@dataclass(frozen=True)
class Job:
    """A submitted job.

    Attributes:
        id: its id in the executor.
        state: ended, with its status if that is not 0; failed; gone: it ended without a trace; unknown;
            else the scheduler's state in lower case, such as pending or running.
        error: last line of the output of a failed job.
    """

    id: str
    state: str
    error: str | None = None


def record(logs: Path, executor: Executor, identifiers: Sequence[str]) -> None:
    """Record submitted jobs in their folder."""
    line = json.dumps({"executor": executor, "jobs": list(identifiers)}) + "\n"
    with (logs / _RECORD).open("a", encoding="utf-8") as stream:
        stream.write(line)


def jobs(logs: Path) -> list[Job]:
    """Every submitted job, in order, with its state from the folder ``logs`` and the scheduler."""
    try:
        text = (logs / _RECORD).read_text(encoding="utf-8")
    except OSError:
        return []
    submissions = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    queue = _queue() if any(one["executor"] == "slurm" for one in submissions) else {}
    return [
        _job(logs, one["executor"], identifier, queue) for one in submissions for identifier in one["jobs"]
    ]


def note_begin() -> None:
    """In a job: delete the end that was recorded before the job was requeued."""
    import submitit

    paths = submitit.JobEnvironment().paths
    _end(paths.folder, paths.job_id).unlink(missing_ok=True)


def note_end(status: int) -> None:
    """In a job: record its end, with the exit status of its command."""
    import submitit

    paths = submitit.JobEnvironment().paths
    write_atomically(_end(paths.folder, paths.job_id), f"{status}\n")


def _job(folder: Path, executor: Executor, identifier: str, queue: dict[str, str] | None) -> Job:
    if queue and identifier in queue:
        return Job(identifier, queue[identifier])
    with contextlib.suppress(OSError):
        status = _end(folder, identifier).read_text(encoding="utf-8").strip()
        return Job(identifier, "ended" if status == "0" else f"ended with status {status}")
    # submitit also writes results of failures.
    if (folder / f"{identifier}_0_result.pkl").is_file():
        return Job(identifier, "failed", _last_line(folder / f"{identifier}_0_log.err"))
    if executor == "local":
        return Job(identifier, "running" if is_alive(int(identifier)) else "gone")
    return Job(identifier, "gone" if queue is not None else "unknown, since squeue does not answer")


def _queue() -> dict[str, str] | None:
    """Slurm's state of each job and array member that it knows; None if Slurm does not answer."""
    try:
        listed = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%i %T"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    named = (line.partition(" ") for line in listed.stdout.splitlines())
    return {name: state.lower() for name, _, state in named}


def _end(folder: Path, identifier: str) -> Path:
    return folder / f"{identifier}_end.txt"


def _last_line(path: Path) -> str | None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
