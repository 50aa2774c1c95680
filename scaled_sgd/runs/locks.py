"""File locks that are released when their process ends, however it ends."""

import fcntl
import os
import socket
import time
from pathlib import Path

from scaled_sgd.core.text import escaped
from scaled_sgd.runs.own_files import open_file

_ATTEMPTS = 5
_SECONDS_BETWEEN = 0.02


class HeldError(RuntimeError):
    """Another process holds the lock; the message says which one."""


class Lock:
    """A lock on the file ``path``, held until :meth:`release` or the end of this process.

    On a file system without locks, locking always succeeds.

    Args:
        path: the file, created if missing.
        shared: allow other shared locks at the same time.

    Attributes:
        descriptor: its file descriptor; a process that inherits it holds the lock too.

    Raises:
        HeldError: another process holds it.
        OSError: the file is a link, or cannot be written.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
        try:
            self._take(shared)
        except BaseException:
            os.close(self.descriptor)
            raise

    def release(self) -> None:
        """Release the lock."""
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
                # A process that asks for the holder takes the lock for a moment.
                if attempt == _ATTEMPTS - 1:
                    raise HeldError(_name(self.descriptor)) from None
                time.sleep(_SECONDS_BETWEEN)
            except OSError:
                return
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def holder(path: Path, *, shared: bool = False) -> str | None:
    """The holder of the lock on ``path``, or with ``shared`` of an exclusive one; None if there is none."""
    try:
        descriptor = open_file(path, os.O_RDWR)
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
    return escaped(os.pread(descriptor, 200, 0).decode(errors="replace")) or "another process"
