"""Collective file operations: no rank waits for one whose disk is full."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from scaled_sgd.core.errors import CheckpointError, UserError
from scaled_sgd.parallel.agreement import Mistakes, from_first_rank, gather, on_every_rank

T = TypeVar("T")


def on_all(target: Path, action: Callable[[], T]) -> list[T]:
    """Run an action with ``target`` on every rank; returns every rank's result, by rank. Collective.

    Raises:
        CheckpointError: an OSError or UserError on any rank; everywhere with the line of the lowest rank
            that failed. Any other exception is raised unchanged where it occurred, and as a
            CheckpointError on the other ranks.
    """
    return gather(on_every_rank(action, _mistakes(target)))


def from_first(target: Path, action: Callable[[], T]) -> T:
    """Run an action on rank 0 only; its result on every rank. Collective, raises like :func:`on_all`."""
    return from_first_rank(action, _mistakes(target))


def _mistakes(target: Path) -> Mistakes:
    return Mistakes(CheckpointError, (Exception,), (OSError, UserError), lambda error: _line(target, error))


def _line(target: Path, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if not isinstance(error, OSError):
        return f"checkpoint: cannot write {str(target)!r}: {type(error).__name__}: {error}"
    place = f"{Path(error.filename).name}: " if isinstance(error.filename, str) else ""
    reason = error.strerror or str(error)
    return f"checkpoint: cannot write {str(target)!r}: {place}{reason}; allowed: a writable folder with room"
