"""Converts Arrow tables to arrays, column by column; fitted on one split and used for all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaled_sgd.core.errors import UserError
from scaled_sgd.data.columns import Columns, kind_of
from scaled_sgd.data.examples import Array, Examples
from scaled_sgd.data.images import ImageKind, image_kind, pixels
from scaled_sgd.data.texts import Texts, one_hot, refuse_gaps, unknown

MAX_CLASSES = 10_000


@dataclass(frozen=True)
class Encoding:
    """The conversion of columns to numbers.

    Args:
        columns: Names of the inputs and of the target.
        images: form of each image column.
        classes: Label values in the order of their ids; None for regression.
        class_names: The same as text, or the data set's own names.
        texts: texts of each text column, one number each.
        gaps: whether cells of columns of numbers and text may be empty; then numbers are NaN.
    """

    columns: Columns
    images: dict[str, ImageKind]
    classes: tuple[Any, ...] | None
    class_names: tuple[str, ...] | None
    texts: Mapping[str, Texts] = field(default_factory=dict)
    gaps: bool = False

    def encode(self, table: Any, first_row: int = 0) -> Examples:
        """Encode the rows of a `pyarrow.Table`; `first_row` is the number of its first row in messages.

        Raises:
            UserError: A value is missing, not finite or of another size, or a label is not among the classes.
        """
        return Examples(self.inputs(table, first_row), self.targets(table, first_row))

    def inputs(self, table: Any, first_row: int = 0) -> Array:
        """Only the inputs (N, m_0), raises like :meth:`encode`."""
        parts = [self._input(table, name, first_row) for name in self.columns.inputs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def targets(self, table: Any, first_row: int = 0) -> Array:
        """Only the class ids (N,) or targets (N, d), raises like :meth:`encode`."""
        name = self.columns.target
        column = table.column(name)
        if self.classes is None:
            return numbers(column, "data.target", name, first_row)
        return class_ids(column, self.classes, name, first_row)

    def layout(self, table: Any) -> tuple[str, ...]:
        """For each number of a row of :meth:`inputs` the column that it comes from."""
        first = table.slice(0, 1)
        widths = [self._input(first, name, 0).shape[1] for name in self.columns.inputs]
        return tuple(
            name for name, width in zip(self.columns.inputs, widths, strict=True) for _ in range(width)
        )

    def unknown(self, table: Any) -> Iterator[str]:
        """A line for each text column of ``table`` with texts that training has not."""
        for name, texts in self.texts.items():
            yield from unknown(table.column(name), texts, name)

    def _input(self, table: Any, name: str, first_row: int) -> Array:
        column = table.column(name)
        if name in self.images:
            return pixels(column, self.images[name], name, first_row)
        if name in self.texts:
            if not self.gaps:
                refuse_gaps(column, name, first_row)
            return one_hot(column, self.texts[name])
        return numbers(column, "data.inputs", name, first_row, gaps=self.gaps)


def fit_encoding(
    table: Any,
    features: dict[str, Any],
    columns: Columns,
    task: str = "auto",
    *,
    folders: tuple[str, ...] = (),
    complete: bool = True,
) -> Encoding:
    """Determine the form of images and the classes from one split.

    Images are read in grey unless one of them has colour. Class labels, strings, booleans and integers
    without gaps from 0 or 1 are classes; other numbers are regression targets. ``task`` can force
    "classification" for any integers, or "regression" for any numbers.

    Args:
        table: its rows.
        features: its columns.
        columns: which are used.
        task: as configured.
        folders: beginnings of the paths that images may have.
        complete: whether ``table`` has all rows: a gap in the integers of a part may be a class of the rest.
    """
    import pyarrow as pa

    names = [name for name in columns.inputs if kind_of(features[name]) == "image"]
    images = {name: image_kind(table.column(name), name, features[name].mode, folders) for name in names}
    feature = features[columns.target]
    if task == "regression":
        return Encoding(columns, images, None, None)
    if kind_of(feature) == "class":
        return Encoding(columns, images, tuple(range(feature.num_classes)), tuple(feature.names))
    column, name = table.column(columns.target), columns.target
    classes = find_classes(column, name, any_integers=task == "classification")
    if classes is None and task == "classification":
        raise UserError(
            f"data.task: 'classification' does not fit column {name!r} of {column.type}; "
            "allowed: auto, regression"
        )
    if classes is None and not complete and pa.types.is_integer(column.type):
        raise UserError(
            f"data.task: 'auto' does not tell whether integers of column {name!r} are all classes of "
            "the stream; allowed: classification, regression"
        )
    return Encoding(columns, images, classes, classes and tuple(str(value) for value in classes))


def find_classes(column: Any, name: str, *, any_integers: bool = False) -> tuple[Any, ...] | None:
    """Label values of a column in sorted order; None if the column is a regression target."""
    import pyarrow.compute as pc
    import pyarrow.types as arrow

    is_integer = arrow.is_integer(column.type)
    if arrow.is_boolean(column.type):
        return (False, True)
    if not is_integer and not arrow.is_string(column.type) and not arrow.is_large_string(column.type):
        return None
    values = sorted(pc.unique(column.drop_null()).to_pylist())
    if is_integer and not any_integers:
        without_gaps = bool(values) and len(values) == values[-1] - values[0] + 1
        if not without_gaps or values[0] not in (-1, 0, 1) or len(values) > MAX_CLASSES:
            return None
        values = [value for value in values if value >= 0]  # -1 marks rows without a label: refused later
    if not 2 <= len(values) <= MAX_CLASSES:
        count = "one class" if len(values) == 1 else f"{len(values)} classes"
        raise UserError(
            f"data.target: column {name!r} has {count}"
            f"{_missing(column.null_count, len(column))}; allowed: 2..{MAX_CLASSES}"
        )
    return tuple(values)


def class_ids(column: Any, classes: tuple[Any, ...], name: str, first_row: int) -> NDArray[np.int64]:
    """Position of each label among the classes, shape (N,)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        if pa.types.is_integer(column.type) and not pa.types.is_uint64(column.type):
            column = column.cast(pa.int64())
        ids = pc.index_in(column, value_set=pa.array(classes, type=column.type))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise UserError(
            f"data.target: column {name!r} holds {_words(column.type)}; allowed: {_span(classes)}"
        ) from error
    if ids.null_count:
        row = pc.index(pc.is_null(ids), True).as_py()
        label = column[row].as_py()
        what = "no label" if label is None else f"label {label!r} ({ids.null_count} of {len(ids)} rows)"
        raise UserError(
            f"data.target: column {name!r}, row {first_row + row}: {what}"
            f"{_missing(column.null_count, len(column))}; allowed: {_span(classes)}"
        )
    return np.asarray(ids.to_numpy(), dtype=np.int64)


def numbers(column: Any, key: str, name: str, first_row: int, *, gaps: bool = False) -> Array:
    """A column of numbers, lists or arrays as rows (N, d), in float32 if that is lossless.

    With ``gaps`` an empty cell of a column of numbers is NaN; lists have none.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as arrow

    array = pa.concat_arrays(column.chunks) if column.num_chunks else column.combine_chunks()
    if gaps and arrow.is_null(array.type):
        array = array.cast(pa.float64())
    n = len(array)
    nested = False
    while hasattr(array.type, "storage_type") or hasattr(array.type, "value_type"):
        nested = True
        array = array.storage if hasattr(array.type, "storage_type") else array
        lengths = pc.list_value_length(array)
        if lengths.null_count or len(pc.unique(lengths)) > 1:
            raise UserError(f"{key}: column {name!r} has rows of different lengths; allowed: one length")
        array = array.flatten()
    if not (arrow.is_integer(array.type) or arrow.is_floating(array.type) or arrow.is_boolean(array.type)):
        raise UserError(f"{key}: column {name!r} holds {_words(array.type)}; allowed: numbers")
    values = (array.cast(pa.uint8()) if arrow.is_boolean(array.type) else array).to_numpy(
        zero_copy_only=False
    )
    rows: Array = values.astype(np.result_type(values.dtype, np.float32), copy=False).reshape(n, -1)
    if not rows.shape[1]:
        raise UserError(f"{key}: column {name!r} holds empty lists; allowed: one number or more a row")
    with np.errstate(over="ignore"):
        finite = np.isfinite(rows.astype(np.float32, copy=False))
    if gaps and not nested:
        finite |= np.isnan(rows)
    if not finite.all():
        whole = finite.all(axis=1)
        row = int(whole.argmin())
        column_of_row = int(finite[row].argmin())
        missing = not array[row * rows.shape[1] + column_of_row].is_valid
        value = "nothing" if missing else rows[row, column_of_row]
        raise UserError(
            f"{key}: column {name!r}, row {first_row + row}: {value} "
            f"({n - int(whole.sum())} of {n} rows); allowed: finite float32 numbers"
        )
    return rows


def _words(type_: Any) -> str:
    import pyarrow.types as arrow

    return "text" if arrow.is_string(type_) or arrow.is_large_string(type_) else str(type_)


def _missing(missing: int, n: int) -> str:
    return (
        f", and nothing in {missing} of {n} rows (as CSV readers take NA, None, null, nan)" if missing else ""
    )


def _span(classes: tuple[Any, ...]) -> str:
    if isinstance(classes[0], str) or len(classes) <= 2:
        shown = ", ".join(repr(value) for value in classes[:10])
        return shown + (", …" if len(classes) > 10 else "")
    return f"{classes[0]}..{classes[-1]}"
