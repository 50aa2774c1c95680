"""Reads files with the readers of ``datasets``, converted once for each state of the files."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaled_sgd.core.errors import UserError
from scaled_sgd.data.csv_types import unify_codes, unify_types
from scaled_sgd.data.dialect import Asked, Dialect, dialect_of
from scaled_sgd.data.files import stamp


@dataclass(frozen=True)
class Prepared:
    """Splits of a data set, and the files they are in.

    Attributes:
        splits: ``datasets.Dataset`` by name, or ``IterableDataset`` when streaming.
        files: paths, or addresses on a hub, of each split.
        folders: beginnings of the paths that its images may have.
        held_out: the split to evaluate on where none is named; None: a part of the training split.
        dialect: of its CSV files; None: there are none.
        notes: what was found in the files, a line each.
    """

    splits: Mapping[str, Any]
    files: Mapping[str, tuple[str, ...]]
    folders: tuple[str, ...]
    held_out: str | None = None
    dialect: Dialect | None = None
    notes: tuple[str, ...] = ()


def prepare(
    source: str, *, folders: tuple[str, ...], streaming: bool, asked: Asked, **options: Any
) -> Prepared:
    """Read a folder, a data set on the hub, or files with one of the readers packaged with ``datasets``.

    Args:
        source: as ``datasets.load_dataset`` takes it.
        folders: see :class:`Prepared`.
        streaming: read while training.
        asked: of CSV files.
        options: of ``datasets.load_dataset_builder``.
    """
    import datasets

    builder = datasets.load_dataset_builder(source, **options)
    files = {str(split): tuple(found) for split, found in (builder.config.data_files or {}).items()}
    _refuse_other_types(builder)
    local = [file for found in files.values() for file in found]
    here = bool(local) and all(map(os.path.exists, local))
    dialect, notes = None, tuple[str, ...]()
    if _is_csv(builder) and here:
        dialect = _dialect(builder, local, asked)
        notes = tuple(dialect.notes(Path(local[0]).name))
    if streaming:
        if dialect is not None:
            unify_codes(builder, local, asked)
        return Prepared(dict(builder.as_streaming_dataset()), files, folders, None, dialect, notes)
    if not here:
        builder.download_and_prepare()
        return Prepared(dict(builder.as_dataset()), files, folders)
    place = Path(f"{builder.cache_dir}-{stamp(local)}{_by(dialect, asked)}")
    unpacked = place.with_name(f"{place.name}-unpacked")
    if not place.exists() and dialect is not None:
        unify_types(builder, local, asked)
    builder.download_and_prepare(
        str(place), download_config=datasets.DownloadConfig(cache_dir=unpacked, use_etag=False)
    )
    return Prepared(dict(builder.as_dataset()), files, (*folders, str(unpacked)), None, dialect, notes)


def _dialect(builder: Any, files: Sequence[str], asked: Asked) -> Dialect:
    """The dialect of all files, which their reader is told.

    Raises:
        UserError: two files differ.
    """
    first, *others = (dialect_of(Path(file), asked) for file in files)
    for file, other in zip(files[1:], others, strict=True):
        if (other.separator, other.header, other.closed) != (first.separator, first.header, first.closed):
            raise UserError(
                f"data.source: {Path(files[0]).name!r} and {Path(file).name!r} differ in separator or "
                "header; allowed: files of one kind, or data.separator and data.header"
            )
    decimals = {dialect.decimal for dialect in (first, *others)}
    config = builder.config
    config.sep, config.decimal = first.separator, "," if "," in decimals else "."
    if first.closed:
        config.index_col = False  # else the first column would be row names, and all others one to the left
    if not first.header:
        config.header, config.names = None, list(first.names)
    return first


def _by(dialect: Dialect | None, asked: Asked) -> str:
    """An end of the name of converted CSV files that differs where they are read in another way."""
    if dialect is None:
        return ""
    told = (dialect, asked.codes, sorted(asked.texts), sorted(asked.numbers))
    return "-" + hashlib.blake2b(repr(told).encode(), digest_size=4).hexdigest()


def _is_csv(builder: Any) -> bool:
    from datasets.packaged_modules.csv.csv import Csv

    return isinstance(builder, Csv)


def _refuse_other_types(builder: Any) -> None:
    """Let no reader turn text into numbers or numbers into text to make a later piece like the first."""
    from datasets import Value

    cast = getattr(builder, "_cast_table", None)
    if cast is None or _is_csv(builder):
        return

    def checked(table: Any, *arguments: Any, **options: Any) -> Any:
        features = builder.info.features or {}
        for field in table.schema:
            expected = features.get(field.name)
            kinds = [_kind(expected.pa_type), _kind(field.type)] if isinstance(expected, Value) else []
            if {*kinds} == {"text", "numbers"}:
                raise UserError(
                    f"data.source: column {field.name!r} is {kinds[0]} in one part and {kinds[1]} "
                    "in another; allowed: one type"
                )
        return cast(table, *arguments, **options)

    builder._cast_table = checked


def _kind(type_: Any) -> str:
    import pyarrow.types as arrow

    if arrow.is_string(type_) or arrow.is_large_string(type_):
        return "text"
    is_number = arrow.is_integer(type_) or arrow.is_floating(type_) or arrow.is_boolean(type_)
    return "numbers" if is_number else "other"
