"""Locks that go with the process that holds them, however it ends."""

import fcntl
import os
import socket
import time
from pathlib import Path

_ATTEMPTS = 5
_SECONDS_BETWEEN = 0.02


class HeldError(RuntimeError):
    """Another process holds the lock; the message says which."""


class Lock:
    """A lock on the file ``path``, from now to :meth:`release` or the end of this process.

    On a file system without locks it always succeeds.

    Args:
        path: of a file, made where there is none.
        shared: let other shared locks be held too.

    Attributes:
        descriptor: of the file; a process that inherits it holds the lock too.

    Raises:
        HeldError: another process holds it.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take(shared)
        except BaseException:
            os.close(self.descriptor)
            raise

    def release(self) -> None:
        """Let others have it."""
        os.close(self.descriptor)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, shared: bool) -> None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Whoever asks for the holder has the lock for a moment.
                if attempt == _ATTEMPTS - 1:
                    raise HeldError(_name(self.descriptor)) from None
                time.sleep(_SECONDS_BETWEEN)
            except OSError:
                return
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def holder(path: Path, *, shared: bool = False) -> str | None:
    """Who holds the lock on ``path``, or ``shared``, keeps others from sharing it; None for nobody."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return _name(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _name(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
