"""Processes that end with the study that they work for, however it ends."""

import os
import select
import signal
import threading
import time

_SECONDS_BETWEEN_LOOKS = 0.5


def end_with(process: int, number: signal.Signals) -> None:
    """Have this process get the signal ``number`` once ``process``, of this machine, has ended.

    Unlike Linux's parent-death signal it also serves a process that was started through another one.
    """
    threading.Thread(target=_watch, args=(process, number), daemon=True).start()


def is_alive(process: int) -> bool:
    """Whether a process of this machine has not ended, or has not been waited for."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _watch(process: int, number: signal.Signals) -> None:
    try:
        select.select([os.pidfd_open(process)], [], [])
    except (AttributeError, OSError):
        # Not on this system, or ended already.
        while is_alive(process):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), number)
