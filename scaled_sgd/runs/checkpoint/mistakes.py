"""How a failed read or write of a checkpoint is reported to all ranks."""

from pathlib import Path

from scaled_sgd.core.errors import CheckpointError, UserError
from scaled_sgd.parallel.agreement import Mistakes


def mistakes_in(target: Path) -> Mistakes:
    """An OSError or UserError becomes a CheckpointError with a line about ``target`` on all ranks.

    Any other exception is raised unchanged where it occurred, and as a CheckpointError elsewhere.
    """
    return Mistakes(CheckpointError, (Exception,), (OSError, UserError), lambda error: _line(target, error))


def _line(target: Path, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if not isinstance(error, OSError):
        return f"checkpoint: cannot write {str(target)!r}: {type(error).__name__}: {error}"
    place = f"{Path(error.filename).name}: " if isinstance(error.filename, str) else ""
    reason = error.strerror or str(error)
    return f"checkpoint: cannot write {str(target)!r}: {place}{reason}; allowed: a writable folder with room"
