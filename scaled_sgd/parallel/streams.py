"""Standard output and error that do not end a program: closed, hung up, full, or without Unicode."""

import errno
import io
import os
import sys

_READER_LEFT = (errno.EPIPE, errno.EIO)
"""A closed pipe, as after ``| head``, and a closed terminal."""


def prepare_streams() -> None:
    """Replace this program's standard streams by forgiving ones; called once, at its start.

    What a reader that left would have read is dropped. So is everything that standard error cannot write;
    standard output raises the OSError, once. Characters that the encoding lacks are written as escapes.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # Closed by the starter. Otherwise the next file takes its number, and gets what libraries print.
            _open_nothing(name)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        raw = _Forgiving(stream.fileno(), everything=name == "stderr")
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            ),
        )


class _Forgiving(io.FileIO):
    """A file whose writes fail at most once, and only if its reader is still there."""

    def __init__(self, descriptor: int, *, everything: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._everything = everything

    def write(self, data: "bytes | bytearray | memoryview", /) -> int | None:  # type: ignore[override]
        """Write, or drop, ``data``."""
        try:
            return super().write(data)
        except OSError as error:
            if not self._everything and error.errno not in _READER_LEFT:
                self._everything = True
                raise
            return len(data)


def _open_nothing(name: str) -> None:
    descriptor = os.open(os.devnull, os.O_RDWR)
    os.set_inheritable(descriptor, True)
    if name != "stdin":
        setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))
