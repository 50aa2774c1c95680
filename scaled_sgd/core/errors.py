"""Errors that end a run, each with its own exit status."""

import os

from scaled_sgd.core.text import escaped

USAGE_STATUS = 2
DIVERGED_STATUS = 3
LOST_STATUS = 4
INTERRUPTED_STATUS = 130


def printable(text: str) -> str:
    r"""Text on one line whose names, which may come from strangers, cannot move the cursor or fake a line.

    ``"a\x1b[2J\nb"`` is ``a\\x1b[2J b``.
    """
    return escaped(" ".join(text.split()))


class UserError(ValueError):
    """A mistake that the user can correct: exit status 2, one line, no traceback.

    The message names the configuration key (or argument), the given value and what is
    allowed, in that order: ``data.target: no column 'lable'; allowed: image, label``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class CheckpointError(UserError):
    """A checkpoint could not be written (full disk, read-only folder, quota): the same on every rank.

    Earlier checkpoints are untouched.
    """


class DivergedError(ArithmeticError):
    """The loss became non-finite: exit status 3. The message names the first bad layer."""


class LostError(RuntimeError):
    """The run directory is gone while the run trains: exit status 4."""


class StoppedError(KeyboardInterrupt):
    """A signal ended a run: exit status 128 + signal. The message says what was saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def error_line(error: BaseException) -> str:
    """One line about an error; about an OSError, the file and the reason."""
    if not isinstance(error, OSError):
        return str(error)
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)!r}: "
    reason = error.strerror or str(error) or type(error).__name__
    return f"file: {place}{' '.join(reason.split())}; allowed: files and folders that can be read and written"
