"""One type for each column of a CSV data set over all its pieces: its files, and parts of large ones."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

WHOLE = 1 << 28
"""Files of at most this many bytes are read as one piece."""


def unify_types(builder: Any, files: Sequence[str]) -> None:
    """Set the types of a ``datasets`` CSV builder that hold all pieces, where their own types differ.

    Integers and decimals together are decimals. Anything else that differs is text, as it stands in the
    files: a code A1 in one piece makes 01 text in all.
    """
    import pyarrow as pa
    from datasets import Features

    builder.config.low_memory = False  # would type parts of a piece by themselves
    if all(os.path.getsize(file) <= WHOLE for file in files):
        builder.config.chunksize = None
        if len(files) == 1:
            return
    schemas = [*_schemas(files, builder.config.pd_read_csv_kwargs)]
    first = schemas[0]
    if any(schema.names != first.names for schema in schemas):
        return  # the reader refuses other columns
    if all(schema.types == first.types for schema in schemas):
        return
    types = [_common({schema.types[i] for schema in schemas}) for i in range(len(first.names))]
    features = Features.from_arrow_schema(pa.schema(list(zip(first.names, types, strict=True))))
    builder.config.features = builder.info.features = features


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
