"""Ends this process: when a signal stops it, and when the process that it works for has ended, in any way."""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from scaled_sgd.core.errors import StoppedError

_SECONDS_BETWEEN_LOOKS = 0.5

_SECONDS_BETWEEN_SIGNALS = 60.0
"""Longer than a launcher waits for its processes, which a second signal would interrupt."""


@contextlib.contextmanager
def stopped_by_signals(message: str) -> Iterator[None]:
    """While open, SIGTERM and SIGHUP raise a StoppedError with ``message``, in the main thread only."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise StoppedError(message, number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (signal.SIGTERM, signal.SIGHUP) if hangs_up() else (signal.SIGTERM,)
        before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def hangs_up() -> bool:
    """Whether SIGHUP ends this process; ``nohup`` makes its command ignore it."""
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


def end_with(process: int, number: signal.Signals) -> None:
    """Send the signal ``number`` to this process once ``process``, on this machine, has ended.

    Repeated until this process ends, since a signal that raises an exception may be lost, for example in an
    import. Unlike Linux's parent-death signal, this works for indirect children too.
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
    while True:
        os.kill(os.getpid(), number)
        time.sleep(_SECONDS_BETWEEN_SIGNALS)
