"""Ends processes when the study that they work for ends, however it ends."""

import os
import select
import signal
import threading
import time

_SECONDS_BETWEEN_LOOKS = 0.5


def end_with(process: int, number: signal.Signals) -> None:
    """Send the signal ``number`` to this process once ``process``, on this machine, has ended.

    Unlike Linux's parent-death signal, this works for indirect children too.
    """
    threading.Thread(target=_watch, args=(process, number), daemon=True).start()


def is_alive(process: int) -> bool:
    """Whether a process of this machine is running, or is a zombie."""
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
        # Not supported on this system, or already ended.
        while is_alive(process):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), number)
