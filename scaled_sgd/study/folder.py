"""A study on the disk: its plan and the states of its runs."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scaled_sgd.config import as_dict
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.text import escaped
from scaled_sgd.runs.locks import HeldError, Lock, holder
from scaled_sgd.runs.own_files import delete, make_folder, read_file, read_text, reason, refuse_link
from scaled_sgd.runs.records import write_atomically
from scaled_sgd.study.plan_file import read_plan

if TYPE_CHECKING:
    from scaled_sgd.study.grid import Run, Study

_SECONDS_ALIVE = 120.0
"""A run on another machine, whose locks may be invisible, is alive while its files are newer than this."""

_LOCK = ".running"


class State(StrEnum):
    """The state of a run."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    RUNNING = "running"
    FAILED = "failed"
    PENDING = "pending"

    @property
    def ended(self) -> bool:
        """Whether the run will not be repeated."""
        return self in (State.FINISHED, State.DIVERGED)


class StudyFolder:
    """``<dir>/<name>/`` with ``study.yaml``, ``plan.jsonl`` and ``runs/<id>/``.

    Args:
        path: the folder, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.path.name

    def run(self, run: str) -> Path:
        """The folder of a run."""
        return self.path / "runs" / run

    def write_plan(self, study: "Study", runs: "Sequence[Run]") -> None:
        """Write the plan of a study; runs of earlier plans stay, and count if they are planned again.

        Raises:
            UserError: the folder cannot be written, or a link stands where a run of the plan belongs.
        """
        rows = [{"id": run.id, "axes": dict(run.axes), "config": as_dict(run.config)} for run in runs]
        try:
            make_folder(self.path / "runs")
            for run in runs:
                refuse_link(self.run(run.id))
            source = yaml.safe_dump(dict(study.source), sort_keys=False, allow_unicode=True)
            write_atomically(self.path / "study.yaml", source)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_atomically(self.path / "plan.jsonl", text)
        except OSError as error:
            raise UserError(
                f"dir: cannot write in {str(self.path)!r}: {reason(error)}; allowed: a writable folder"
            ) from error

    def planned(self) -> list[dict[str, Any]]:
        """The planned runs: id, axes and configuration of each.

        Raises:
            UserError: there is no plan, or a line of it is no run.
        """
        return read_plan(self.path / "plan.jsonl")

    def summary(self, run: str) -> dict[str, Any] | None:
        """The summary of a run that has ended, else None."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            summary: dict[str, Any] = json.loads(read_file(self.run(run) / "summary.json"))
            if summary["status"] in (State.FINISHED, State.DIVERGED):
                return summary
        return None

    def state(self, run: str) -> State:
        """The state of a run, from its files and locks."""
        folder, summary = self.run(run), self.summary(run)
        if summary is not None:
            return State(summary["status"])
        if self.error(run) is not None:
            return State.FAILED
        return State.RUNNING if holder(folder / _LOCK) or _alive_elsewhere(folder) else State.PENDING

    def error(self, run: str) -> str | None:
        """One line about why a run failed; None if it did not."""
        with contextlib.suppress(OSError):
            lines = read_text(self.run(run) / "error.txt").strip().splitlines()
            return escaped(lines[-1]) if lines else "no reason is known"
        return None

    def begin(self, run: str, *, keep: bool = False) -> Path:
        """The folder for a run that has not ended, without earlier results unless ``keep``, for resuming.

        Raises:
            OSError: it is a link, or cannot be written.
        """
        from scaled_sgd.runs.directory import clear

        folder = self._make(run)
        delete(folder / "error.txt")
        if not keep:
            clear(folder)
        return folder

    def hold(self, run: str) -> Lock:
        """Lock a run, until the lock is released or this process ends.

        Raises:
            HeldError: another process trains it.
            OSError: it is a link, or cannot be written.
        """
        return Lock(self._make(run) / _LOCK)

    def fail(self, run: str, reason: str) -> None:
        """Record why a run failed."""
        with contextlib.suppress(OSError):
            write_atomically(self._make(run) / "error.txt", reason.rstrip() + "\n")

    def _make(self, run: str) -> Path:
        make_folder(self.path / "runs")
        make_folder(self.run(run))
        return self.run(run)

    @contextlib.contextmanager
    def locked(self, *, by_jobs: bool = False) -> Iterator[None]:
        """Lock the study, so that no one else on this file system runs it at the same time.

        Args:
            by_jobs: allow other jobs of the study, no two of which train the same run.

        Raises:
            UserError: someone else runs it, or the folder cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = Lock(self.path / ".lock", shared=by_jobs)
        except HeldError as error:
            raise UserError(
                f"study: {str(self.path)!r} is being run by {error}; allowed: one at a time"
            ) from None
        except OSError as error:
            raise UserError(
                f"dir: cannot write in {str(self.path)!r}: {reason(error)}; allowed: a writable folder"
            ) from error
        with lock:
            yield

    @property
    def user(self) -> str | None:
        """The process that runs the study, other than jobs, or None."""
        return holder(self.path / ".lock", shared=True)


def _alive_elsewhere(folder: Path) -> bool:
    """Whether another machine claims the run and its files are recent."""
    try:
        who = read_text(folder / _LOCK)
        newest = max(entry.lstat().st_mtime for entry in folder.iterdir())
    except OSError:
        return False
    elsewhere = bool(who) and not who.endswith(f" on {socket.gethostname()}")
    return elsewhere and time.time() - newest < _SECONDS_ALIVE
