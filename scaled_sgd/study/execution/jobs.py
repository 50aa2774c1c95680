"""The jobs of a study: which were submitted, and their states."""

import contextlib
import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from scaled_sgd.core.text import escaped
from scaled_sgd.parallel.endings import is_alive
from scaled_sgd.runs.own_files import make_folder, open_file, read_text
from scaled_sgd.runs.records import write_atomically

Executor = Literal["local", "slurm"]

FOLDER = "jobs"
"""Folder of the jobs' scripts, logs and results, in the folder of a study."""

_RECORD = "submitted.jsonl"
_NUMBER = r"[1-9][0-9]{0,9}(_[0-9]{1,8})?"
"""The id of a job: a process, a Slurm job or a member of its array."""


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
    with os.fdopen(open_file(logs / _RECORD, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as stream:
        stream.write(line.encode())


def new_folder(jobs: Path) -> Path:
    """A new folder for the files of one submission, below the folder of all jobs.

    A job runs the program in the file that has its number. Such a file of an older folder may be of anyone.

    Raises:
        OSError: it cannot be made, or the folder of all jobs is a link.
    """
    make_folder(jobs)
    folder = jobs / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
    folder.mkdir()
    return folder


def jobs(logs: Path) -> list[Job]:
    """Every submitted job, in order, with its state from the folder of all jobs and the scheduler."""
    records = [logs / _RECORD, *sorted(logs.glob(f"*/{_RECORD}"))]
    submissions = [(path.parent, *one) for path in records for one in _submissions(path)]
    queue = _queue() if any(executor == "slurm" for _, executor, _ in submissions) else {}
    return [
        _job(folder, executor, identifier, queue)
        for folder, executor, identifiers in submissions
        for identifier in identifiers
    ]


def _submissions(path: Path) -> Iterator[tuple[Executor, list[str]]]:
    """Executor and jobs of each line of a record; other lines are left out."""
    try:
        lines = read_text(path).splitlines()
    except OSError:
        return
    for line in lines:
        try:
            found = json.loads(line)
            executor, identifiers = found["executor"], found["jobs"]
            numbered = [name for name in identifiers if re.fullmatch(_NUMBER, name)]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if executor in get_args(Executor) and len(numbered) == len(identifiers):
            yield executor, numbered


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
        status = escaped(read_text(_end(folder, identifier)).strip())
        return Job(identifier, "ended" if status == "0" else f"ended with status {status}")
    # submitit also writes results of failures.
    if (folder / f"{identifier}_0_result.pkl").is_file():
        return Job(identifier, "failed", _last_line(folder / f"{identifier}_0_log.err"))
    if executor == "local":
        process = int(identifier.partition("_")[0])
        return Job(identifier, "running" if process < 2**31 and is_alive(process) else "gone")
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
        lines = read_text(path).splitlines()
    except OSError:
        return None
    return next((escaped(line.strip()) for line in reversed(lines) if line.strip()), None)
