"""Formats of data files by suffix; plugins add theirs with :func:`register_format`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaled_sgd.core.registry import Registry, load

Read = Callable[..., Mapping[str, Any]]


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        suffix: end of its file names, such as ``.csv``.
        read: splits by name, ``datasets.Dataset`` or, where ``streaming``, ``IterableDataset``, of (path,
            streaming=); text ``"module:name"`` is imported when it is used.
        folder: pattern of files that give their folder, as ``path``, to ``read``; None: paths are files only.
        held_out: the split to evaluate on where none is named and there is one of this name.
        builder: name of the reader packaged with ``datasets`` that is used in place of ``read``.
    """

    suffix: str
    read: str | Read = ""
    folder: str | None = None
    held_out: str | None = None
    builder: str | None = None

    def splits(self, path: Path, *, streaming: bool) -> dict[str, Any]:
        """The splits in ``path``."""
        return dict(load(self.read)(path, streaming=streaming))


FORMATS: Registry[Format] = Registry("data.source")


def register_format(
    suffix: str, read: str | Read, *, folder: str | None = None, held_out: str | None = None
) -> Format:
    """Add a format; the arguments are the attributes of :class:`Format`.

    Raises:
        UserError: the suffix is taken.
    """
    return FORMATS.add(suffix, Format(suffix, read, folder, held_out))


def format_of(path: Path) -> Format | None:
    """The format of a file by its name, or of a folder by its files."""
    for form in FORMATS.entries:
        if path.is_dir():
            if form.folder is not None and any(file.is_file() for file in path.glob(form.folder)):
                return form
        elif path.name.endswith(form.suffix):
            return form
    return None


def allowed() -> str:
    """The allowed local sources as text."""
    return f"whole files ending in {', '.join(FORMATS)}, or a folder of them or of images"


for _suffix, _builder in (
    (".parquet", "parquet"),
    (".csv", "csv"),
    (".csv.gz", "csv"),
    (".tsv", "csv"),
    (".tsv.gz", "csv"),
    (".json", "json"),
    (".jsonl", "json"),
    (".arrow", "arrow"),
):
    FORMATS.add(_suffix, Format(_suffix, builder=_builder))

for _suffix in (".npz", ".npy"):
    register_format(_suffix, "scaled_sgd.data.arrays:read_arrays", held_out="test")

for _suffix in ("idx3-ubyte", "idx3-ubyte.gz"):
    register_format(_suffix, "scaled_sgd.data.idx:read_idx", folder="*images[-.]idx3-ubyte*", held_out="test")
