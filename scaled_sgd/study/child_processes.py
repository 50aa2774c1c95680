"""What the processes of a study know of each other's end."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals, parent: int) -> None:
    """Have the system send this process a signal when ``parent``, which started it, is gone (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    # It may be gone already.
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
