"""How the commands of this room read options and end: one line of what is wrong, and an exit status."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from scaled_sgd.core.errors import INTERRUPTED_STATUS, USAGE_STATUS, StoppedError, UserError, error_line


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are a :class:`UserError`."""

    def error(self, message: str) -> NoReturn:
        """Raise the message."""
        raise UserError(f"{message}; allowed: see {self.prog} --help")


def run_command(
    name: str, arguments: Sequence[str], action: Callable[[list[str]], int], *, interrupted: str = ""
) -> int:
    """The exit status of a command.

    Args:
        name: the command.
        arguments: its own; with ``--debug`` among them mistakes are raised.
        action: runs it with the other arguments; returns its status.
        interrupted: what is said on an interruption.
    """
    try:
        return action([argument for argument in arguments if argument != "--debug"])
    except (UserError, OSError) as error:
        if "--debug" in arguments:
            raise
        print(f"error: {error_line(error)}", file=sys.stderr, flush=True)
        return USAGE_STATUS
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("scaled_sgd"):
            raise
        missing = f"error: {name}: {error.name} is not installed; allowed: pip install 'scaled-sgd[study]'"
        print(missing, file=sys.stderr, flush=True)
        return USAGE_STATUS
    except KeyboardInterrupt as interrupt:
        if interrupted:
            print(f"interrupted: {interrupted}", file=sys.stderr)
        return 128 + interrupt.number if isinstance(interrupt, StoppedError) else INTERRUPTED_STATUS
