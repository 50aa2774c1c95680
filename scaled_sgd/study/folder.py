"""A study on the disk: its plan, and how far each run is."""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import yaml

from scaled_sgd.config import as_dict
from scaled_sgd.errors import UserError
from scaled_sgd.records import write_atomically
from scaled_sgd.study.grid import Run, Study

_SECONDS_ALIVE = 120.0
"""A run whose files changed so recently counts as running."""


class State(StrEnum):
    """How far a run is."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    RUNNING = "running"
    FAILED = "failed"
    PENDING = "pending"

    @property
    def ended(self) -> bool:
        """Whether it is never run again."""
        return self in (State.FINISHED, State.DIVERGED)


class StudyFolder:
    """``<dir>/<name>/`` with ``study.yaml``, ``plan.jsonl`` and ``runs/<id>/``.

    Args:
        path: of the folder, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Of the study."""
        return self.path.name

    def run(self, run: str) -> Path:
        """The folder of a run."""
        return self.path / "runs" / run

    def write_plan(self, study: Study, runs: Sequence[Run]) -> None:
        """Put the plan of a study here; what earlier plans made stays, and counts where it is planned again.

        Raises:
            UserError: the folder cannot be written.
        """
        rows = [{"id": run.id, "axes": dict(run.axes), "config": as_dict(run.config)} for run in runs]
        try:
            (self.path / "runs").mkdir(parents=True, exist_ok=True)
            source = yaml.safe_dump(dict(study.source), sort_keys=False, allow_unicode=True)
            write_atomically(self.path / "study.yaml", source)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_atomically(self.path / "plan.jsonl", text)
        except OSError as error:
            raise UserError(
                f"dir: cannot write in {str(self.path)!r}: {error.strerror}; allowed: a writable folder"
            ) from error

    def state(self, run: str) -> State:
        """How far a run is, by its files alone."""
        folder = self.run(run)
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            status = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"]
            if status in (State.FINISHED, State.DIVERGED):
                return State(status)
        if self.error(run) is not None:
            return State.FAILED
        return State.RUNNING if _alive(folder) else State.PENDING

    def error(self, run: str) -> str | None:
        """Why a run failed, in a line; None where it did not."""
        with contextlib.suppress(OSError):
            lines = (self.run(run) / "error.txt").read_text(encoding="utf-8").strip().splitlines()
            return lines[-1] if lines else "no reason is known"
        return None

    def begin(self, run: str, *, keep: bool = False) -> Path:
        """An empty folder for a run that has not ended; with ``keep`` what is there, for it to go on."""
        folder = self.run(run)
        if keep:
            (folder / "error.txt").unlink(missing_ok=True)
            return folder
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def fail(self, run: str, reason: str) -> None:
        """Note why a run failed."""
        with contextlib.suppress(OSError):
            self.run(run).mkdir(parents=True, exist_ok=True)
            write_atomically(self.run(run) / "error.txt", reason.rstrip() + "\n")

    @contextlib.contextmanager
    def locked(self, part: str = "") -> Iterator[None]:
        """Hold the study, or a part of it, so that nobody else on this file system runs it at the same time.

        Raises:
            UserError: somebody does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / f".lock{part}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(
                f"study: {str(self.path)!r} is being run by another process; allowed: one at a time"
            ) from None
        except OSError:  # A file system without locks has none.
            pass
        try:
            yield
        finally:
            os.close(descriptor)


def _alive(folder: Path) -> bool:
    newest = 0.0
    with contextlib.suppress(OSError):
        newest = max((entry.stat().st_mtime for entry in folder.iterdir()), default=0.0)
    return time.time() - newest < _SECONDS_ALIVE
