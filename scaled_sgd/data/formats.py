"""Formats of data files by suffix; plugins add theirs with :func:`register_format`."""

import csv
import glob
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.registry import Registry, load

Read = Callable[..., Mapping[str, Any]]


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        suffix: end of its file names, such as ``.csv``.
        read: splits by name, ``datasets.Dataset`` or, where ``streaming``, ``IterableDataset``, of (path,
            streaming=); text ``"module:name"`` is imported when it is used.
    """

    suffix: str
    read: str | Read

    def splits(self, path: Path, *, streaming: bool) -> dict[str, Any]:
        """The splits in ``path``."""
        return dict(load(self.read)(path, streaming=streaming))


FORMATS: Registry[Format] = Registry("data.source")


def register_format(suffix: str, read: str | Read) -> Format:
    """Add a format.

    Raises:
        UserError: the suffix is taken.
    """
    return FORMATS.add(suffix, Format(suffix, read))


def allowed() -> str:
    """The allowed local sources as text."""
    return f"whole files ending in {', '.join(FORMATS)}, or a folder of them or of images"


def check_header(path: Path) -> None:
    """Refuse a CSV file that names a column twice: its reader would silently rename the second.

    Raises:
        UserError: a column is named twice.
    """
    with path.open(encoding="utf-8-sig", newline="") as lines:
        names = next(csv.reader(lines), [])
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(
            f"data.source: {path.name!r} has several columns {twice[0]!r}; allowed: each name once"
        )


def _by_datasets(builder: str, path: Path, *, streaming: bool) -> Mapping[str, Any]:
    """Read with one of the readers packaged with ``datasets``."""
    import datasets

    if builder == "csv":
        check_header(path)
    found: Mapping[str, Any] = datasets.load_dataset(
        builder, data_files=glob.escape(str(path)), streaming=streaming
    )
    return found


for _suffix, _builder in (
    (".parquet", "parquet"),
    (".csv", "csv"),
    (".json", "json"),
    (".jsonl", "json"),
    (".arrow", "arrow"),
):
    register_format(_suffix, partial(_by_datasets, _builder))
