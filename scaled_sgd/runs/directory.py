"""The run directory: configuration, metrics, checkpoints, summary; written by one process group at a time."""

import contextlib
import itertools
import json
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import yaml

from scaled_sgd.core.errors import UserError
from scaled_sgd.runs.checkpoint.folders import delete_all
from scaled_sgd.runs.locks import HeldError, Lock
from scaled_sgd.runs.own_files import delete, reason, refuse_link
from scaled_sgd.runs.records import MetricsStream, finite, write_atomically

_FILES = ("config.yaml", "metrics.jsonl", "summary.json")
_MODEL = ("config.json", "model.safetensors", "README.md", "loss.svg")
_UNFINISHED = re.compile(
    r"\.(config\.yaml|summary\.json|config\.json|model\.safetensors|README\.md|loss\.svg)\.[a-z0-9_]{8}"
)
"""Names of files before they are complete."""

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class RunDirectory:
    """The directory ``<dir>/<name>/`` of a run, locked until :meth:`close` or the end of this process.

    Args:
        path: the folder, which must exist.
        durable: flush every complete file to the disk when it is written.

    Raises:
        UserError: another process uses it, it cannot be written, or a link stands where a file of it belongs.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        self._durable = durable
        self._open = True
        try:
            refuse_link(self.checkpoints)
            refuse_link(self.model)
            self._lock = Lock(path / ".lock")
            try:
                self.metrics = MetricsStream(path / "metrics.jsonl")
            except OSError:
                self._lock.release()
                raise
        except HeldError as error:
            raise UserError(f"run.name: {str(path)!r} is in use by {error}; allowed: one at a time") from None
        except OSError as error:
            raise self._refusal(error) from error

    @classmethod
    def make(cls, parent: str, name: str, *, numbered: bool = False) -> "RunDirectory":
        """Make a new run directory.

        Args:
            parent: folder of all runs.
            name: name of the new folder.
            numbered: if ``name`` is taken, try ``name-2``, ``name-3``, … .

        Raises:
            UserError: the folder already exists or cannot be created.
        """
        path = Path(parent) / name
        for number in itertools.count(2):
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                if not numbered:
                    raise UserError(
                        f"run.name: {str(path)!r} exists already; allowed: the name of a new run, or "
                        "run.resume auto"
                    ) from None
                path = Path(parent) / f"{name}-{number}"
            except OSError as error:
                raise UserError(
                    f"run.dir: cannot make {str(path)!r}: {error.strerror}; allowed: a writable folder"
                ) from error
            else:
                break
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Folder of the trained network."""
        return self.path / "model"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.yaml``.

        Raises:
            UserError: it cannot be written.
        """
        text = yaml.dump(dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        try:
            write_atomically(self.path / "config.yaml", text, durable=self._durable)
        except OSError as error:
            raise self._refusal(error) from error

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        self.metrics.check()
        text = json.dumps(finite(summary), indent=2, allow_nan=False) + "\n"
        write_atomically(self.path / "summary.json", text, durable=self._durable)

    def _refusal(self, error: OSError) -> UserError:
        return UserError(
            f"run.dir: cannot write in {str(self.path)!r}: {reason(error)}; allowed: a writable folder"
        )

    def close(self) -> None:
        """Flush the metrics and release the lock, if that was not done."""
        if self._open:
            self._open = False
            try:
                self.metrics.close()
            finally:
                self._lock.release()


def clear(path: Path) -> None:
    """Delete what a run wrote in its folder, except its lock; other files and folders stay.

    Raises:
        OSError: something cannot be deleted.
    """
    _delete_ours(path, _FILES)
    delete_model(path / "model")
    for folder in (path / "checkpoints", path / "eigenvectors"):
        if folder.is_dir() and not folder.is_symlink():
            delete_all(folder)


def delete_model(folder: Path) -> None:
    """Delete a trained network that no longer is the run's, and the folder if nothing else is in it.

    Raises:
        OSError: something cannot be deleted.
    """
    if folder.is_dir() and not folder.is_symlink():
        _delete_ours(folder, _MODEL)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _delete_ours(folder: Path, names: Container[str]) -> None:
    for entry in list(folder.iterdir()):
        if entry.name in names or _UNFINISHED.fullmatch(entry.name):
            delete(entry)
