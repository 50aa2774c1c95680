"""Errors that end a run, each with its own exit status."""

from scaled_sgd.core.text import printable

USAGE_STATUS = 2
DIVERGED_STATUS = 3
LOST_STATUS = 4
INTERRUPTED_STATUS = 130
TERMINATED_STATUS = 143


class UserError(ValueError):
    """A mistake that the user can correct: exit status 2, one line, no traceback.

    The message names the configuration key (or argument), the given value and what is
    allowed, in that order: ``data.target: no column 'lable'; allowed: image, label``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))


class CheckpointError(UserError):
    """A checkpoint could not be written (full disk, read-only folder, quota): the same on every rank.

    Earlier checkpoints are untouched.
    """


class DivergedError(ArithmeticError):
    """The loss became non-finite: exit status 3. The message names the first bad layer."""


class StoppedError(KeyboardInterrupt):
    """A signal ended the run after a step: exit status 128 + signal. The message says what was saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
