"""Files that a run writes: a metrics stream that survives a kill, atomic files, software versions."""

import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from scaled_sgd.config import flat
from scaled_sgd.core.errors import LostError, UserError
from scaled_sgd.runs.own_files import open_file, read_file

_REPORTED_PACKAGES = ("scaled-sgd", "torch", "accelerate", "datasets", "evaluate", "numpy")


class MetricsStream:
    """``metrics.jsonl``: one JSON object per line, each appended by a single write.

    After a SIGKILL the file holds every line for which :meth:`write` has returned. Non-finite numbers become
    null. Every method but ``close`` raises a LostError once the file is deleted or moved.

    Raises:
        OSError: the file is a link, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._path = path.absolute()
        self._named = os.fstat(self._descriptor).st_nlink > 0
        self._waiting = b""
        self._error: OSError | None = None

    @property
    def size(self) -> int:
        """Length in bytes; flushed to the disk on return."""
        self.flush()
        return os.fstat(self._descriptor).st_size

    def cut(self, size: int) -> None:
        """Truncate to the first ``size`` bytes."""
        os.ftruncate(self._descriptor, size)

    def check(self) -> None:
        """Raise a LostError if the file has been deleted or moved."""
        try:
            os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            gone = True
        except OSError:
            gone = False
        else:
            # Another file may have its name by now.
            gone = self._named and os.fstat(self._descriptor).st_nlink == 0
        if gone:
            raise LostError(
                f"run.dir: {str(self._path)!r} was deleted or moved while the run trained; allowed: a folder "
                "that stays until the run ends"
            )

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        self.append((json.dumps(finite(row), separators=(",", ":"), allow_nan=False) + "\n").encode())

    def append(self, lines: bytes) -> None:
        """Append complete rows unchanged.

        If the disk is full they are kept for the next call, with a warning; a row is never left incomplete.
        """
        self.check()
        warned = bool(self._waiting)
        self._waiting += lines
        whole = os.fstat(self._descriptor).st_size
        rest = self._waiting
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            self._error = error
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, whole)
            if not warned:
                print(
                    f"warning: metrics: cannot be written: {error.strerror}; rows wait until they can",
                    file=sys.stderr,
                    flush=True,
                )
        else:
            self._waiting = b""

    def flush(self) -> None:
        """Flush everything to the disk; raises an OSError if rows have to wait."""
        self.append(b"")
        if self._waiting and self._error is not None:
            raise self._error
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Flush to the disk and close."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)


def read_metrics(path: str | Path) -> Iterator[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``; a half-written last line is skipped.

    Raises:
        UserError: the file does not exist, or a line is not a JSON object.
    """
    path = Path(path)
    try:
        whole, _, _ = read_file(path).rpartition(b"\n")
    except OSError as error:
        raise UserError(
            f"metrics: cannot read {str(path)!r}: {error.strerror}; allowed: a metrics.jsonl"
        ) from error
    for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"it is a {type(row).__name__}")
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"metrics: line {number} of {str(path)!r} is no row: {error}; allowed: JSON objects"
            ) from error
        yield row


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a temporary file, then move it to ``path``: a reader sees the old or the new file.

    Raises:
        OSError: the folder cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Write ``text`` to ``path``, so that a reader or a crash sees the old or the new file.

    Unless ``durable``, it may take seconds to reach the disk, and a power failure may leave any part of it.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())

    replace_file(path, write)


@cache
def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Installed versions of the packages that affect a run's numbers; None for a missing package."""
    return {package: _installed(package) for package in _REPORTED_PACKAGES}


def tracked(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in the form that every tracker accepts: one level, plain values."""
    return {k: v if isinstance(v, int | float | str) else str(v) for k, v in flat(config).items()}


def finite(value: Any) -> Any:
    """The same nested value with None for non-finite numbers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value
