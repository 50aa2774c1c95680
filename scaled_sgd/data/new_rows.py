"""Rows for a trained network: tables, data sets and files with the columns of its training data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaled_sgd.core.errors import UserError
from scaled_sgd.data.columns import listed
from scaled_sgd.data.dialect import Asked
from scaled_sgd.data.given import given
from scaled_sgd.data.loading import DIGITS, read_digits
from scaled_sgd.data.pipeline import Pipeline
from scaled_sgd.data.prepared import Prepared
from scaled_sgd.data.sources import open_source
from scaled_sgd.data.splits import Split, pick_split


@dataclass(frozen=True)
class NewRows:
    """Rows, not yet encoded.

    Attributes:
        table: `pyarrow.Table` of the input columns and, if there is one, the target column.
        folders: beginnings of the paths that their images may have.
        has_target: whether the target column is there.
    """

    table: Any
    folders: tuple[str, ...]
    has_target: bool


def read_rows(source: Any, pipeline: Pipeline, *, split: str | None = None) -> NewRows:
    """The columns of ``pipeline`` in a source.

    Args:
        source: what ``data.source`` takes, a ``datasets.Dataset``, a table of pyarrow or pandas, or columns
            by name, or splits that are open.
        pipeline: of the trained network.
        split: of a file, folder or data set on the hub; None: ``train``, or the only one.

    Raises:
        UserError: it cannot be read, or lacks a column of the inputs.
    """
    rows, prepared = _opened(source, pipeline, split)
    columns, features = pipeline.encoding.columns, rows.features()
    for name in columns.inputs:
        if name not in features:
            line = f"data.source: no column {name!r}, only {listed(features)}; allowed: as in training"
            raise UserError("; ".join((line, *prepared.notes)))
    has_target = columns.target in features
    table = rows.table(columns.used if has_target else columns.inputs)
    if has_target and pipeline.encoding.class_names is not None:
        table = _by_name(table, columns.target, features[columns.target])
    return NewRows(table, prepared.folders, has_target)


def _opened(source: Any, pipeline: Pipeline, split: str | None) -> tuple[Split, Prepared]:
    if isinstance(source, Prepared):
        prepared = source
    elif not isinstance(source, str | Path):
        prepared = given(source, also="a path, an array, ")
    elif source == "digits":
        prepared = _digits()
    else:
        prepared = open_source(str(source), streaming=False, quiet=True, asked=_as_in_training(pipeline))
    only = next(iter(prepared.splits)) if len(prepared.splits) == 1 else "train"
    return pick_split(prepared, split or only, "data.split"), prepared


def _as_in_training(pipeline: Pipeline) -> Asked:
    """Columns are text or numbers as they were in training, whatever these rows look like."""
    encoding = pipeline.encoding
    columns, classes = encoding.columns, encoding.classes or (0,)
    texts = {*encoding.texts, *([columns.target] if isinstance(classes[0], str) else [])}
    return Asked(texts=frozenset(texts), numbers=frozenset(columns.used) - texts)


def _digits() -> Prepared:
    import datasets

    x, y = read_digits()
    columns = {DIGITS.inputs[0]: x.tolist(), DIGITS.target: y.astype(int).tolist()}
    return Prepared({"train": datasets.Dataset.from_dict(columns)}, {}, ())


def _by_name(table: Any, name: str, feature: Any) -> Any:
    """The table with class labels as text: the same class may have another number in another data set."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import ClassLabel

    if not isinstance(feature, ClassLabel):
        return table
    ids = table.column(name).cast(pa.int64())
    known = pc.if_else(pc.less(ids, 0), pa.scalar(None, pa.int64()), ids)
    names = pc.take(pa.array(feature.names), known)
    return table.set_column(table.column_names.index(name), name, names)
