"""Steps that all ranks take together, files included: none waits for a rank whose disk is full."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from scaled_sgd.errors import CheckpointError, UserError

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is rank 0, or the only process."""
    return not dist.is_initialized() or dist.get_rank() == 0


def on_all(target: Path, action: Callable[[], T]) -> list[T]:
    """Do something with ``target`` on every rank; every rank's result, by rank. Collective.

    Raises:
        CheckpointError: an OSError or UserError on any rank; the same line, of the lowest rank that
            failed, everywhere. Another exception is raised as it is where it happened, and as a
            CheckpointError on the other ranks.
    """
    result, error = _try(action)
    mine = (result, None if error is None else _line(target, error))
    outcomes: list[tuple[tuple[T] | None, str | None]] = [mine]
    if dist.is_initialized():
        outcomes = [mine] * dist.get_world_size()
        dist.all_gather_object(outcomes, mine)
    if error is not None and not isinstance(error, OSError | UserError):
        raise error
    for _, line in outcomes:
        if line is not None:
            raise CheckpointError(line) from error
    return [value[0] for value, _ in outcomes if value is not None]


def from_first(target: Path, action: Callable[[], T]) -> T:
    """Do something on rank 0 alone; its result on every rank. Collective, raises as :func:`on_all`."""
    return on_all(target, lambda: [action()] if is_first() else [])[0][0]


def _try(action: Callable[[], T]) -> tuple[tuple[T] | None, Exception | None]:
    try:
        return (action(),), None
    except Exception as error:
        return None, error


def _line(target: Path, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if not isinstance(error, OSError):
        return f"checkpoint: cannot write {str(target)!r}: {type(error).__name__}: {error}"
    place = f"{Path(error.filename).name}: " if isinstance(error.filename, str) else ""
    reason = error.strerror or str(error)
    return f"checkpoint: cannot write {str(target)!r}: {place}{reason}; allowed: a writable folder with room"
