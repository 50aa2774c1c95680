"""One type for each column of a CSV data set over all its pieces: its files, and parts of large ones."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scaled_sgd.data.dialect import Asked, opened

WHOLE = 1 << 28
"""Files of at most this many bytes are read as one piece."""

_LEADING_ZERO = re.compile(rb"""(?:^|[,;\t|"'\s])0[0-9]""")
_BLOCK = 1 << 24


def unify_types(builder: Any, files: Sequence[str], asked: Asked) -> None:
    """Set the types of a ``datasets`` CSV builder that hold all pieces, where their own types differ.

    Integers and decimals together are decimals. Anything else that differs is text, as it stands in the
    files: a code A1 in one piece makes 01 text in all. Integers with leading zeros are text too.
    """
    import pyarrow as pa
    from datasets import Features

    builder.config.low_memory = False  # would type parts of a piece by themselves
    texts = _texts(builder, files, asked)
    if all(os.path.getsize(file) <= WHOLE for file in files):
        builder.config.chunksize = None
        if len(files) == 1 and not texts:
            return
    schemas = [*_schemas(files, builder.config.pd_read_csv_kwargs)]
    first = schemas[0]
    if any(schema.names != first.names for schema in schemas):
        return  # the reader refuses other columns
    if all(schema.types == first.types for schema in schemas) and not texts & set(first.names):
        return
    types = [
        pa.string() if name in texts else _common({schema.types[i] for schema in schemas})
        for i, name in enumerate(first.names)
    ]
    features = Features.from_arrow_schema(pa.schema(list(zip(first.names, types, strict=True))))
    builder.config.features = builder.info.features = features


def unify_codes(builder: Any, files: Sequence[str], asked: Asked) -> None:
    """Only make integers with leading zeros text, for a stream, whose pieces have types of their own."""
    import pyarrow as pa
    from datasets import Features

    texts = _texts(builder, files, asked)
    schema = next(_schemas(files, builder.config.pd_read_csv_kwargs)) if texts else None
    if schema is not None and texts & set(schema.names):
        for name in texts & set(schema.names):
            schema = schema.set(schema.get_field_index(name), pa.field(name, pa.string()))
        builder.config.features = builder.info.features = Features.from_arrow_schema(schema)


def _texts(builder: Any, files: Sequence[str], asked: Asked) -> set[str]:
    """Columns that are text whatever a reader makes of them."""
    codes = _codes(files, builder.config.pd_read_csv_kwargs) if asked.codes else set()
    return {*asked.texts, *(codes - asked.numbers)}


def _codes(files: Sequence[str], options: dict[str, Any]) -> set[str]:
    """Columns that hold integers only, some of them with leading zeros."""
    import pandas as pd

    files = [file for file in files if _has_leading_zeros(Path(file))]
    codes: set[str] = set()
    others: set[str] = set()
    for file in files:
        with pd.read_csv(file, iterator=True, dtype=str, **options) as pieces:
            for piece in pieces:
                for name in piece.columns:
                    cells = piece[name].dropna().str
                    if name not in others and cells.match("0[0-9]").any():
                        (codes if cells.fullmatch("[0-9]+").all() else others).add(name)
    return codes - others


def _has_leading_zeros(file: Path) -> bool:
    """Whether some field of a file begins with a zero and another digit; without parsing it."""
    with opened(file) as stream:
        end = b""
        while block := stream.read(_BLOCK):
            if _LEADING_ZERO.search(end + block):
                return True
            end = block[-2:]
    return False


def _schemas(files: Sequence[str], options: dict[str, Any]) -> Iterator[Any]:
    import pandas as pd
    import pyarrow as pa

    for file in files:
        with pd.read_csv(file, iterator=True, **options) as pieces:
            for piece in pieces:
                yield pa.Table.from_pandas(piece).schema


def _common(types: set[Any]) -> Any:
    import pyarrow as pa
    import pyarrow.types as arrow

    known = {type_ for type_ in types if not arrow.is_null(type_)}  # of a piece without rows
    if len(known) == 1:
        return known.pop()
    if all(arrow.is_integer(type_) or arrow.is_floating(type_) for type_ in known):
        return pa.float64()
    return pa.string()
