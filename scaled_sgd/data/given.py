"""Data in memory: arrays, tables, data sets and columns by name."""

import os
from collections.abc import Mapping
from typing import Any

from scaled_sgd.core.errors import UserError
from scaled_sgd.data.columns import TARGET_NAMES
from scaled_sgd.data.prepared import Prepared
from scaled_sgd.data.reading import reading

GIVEN = "(in memory)"
"""``data.source`` of a run whose data were given in Python."""

ALLOWED = (
    "a pair (x, y) of arrays, lists or pandas, a table of pandas or pyarrow, columns by name, a Bunch of "
    "scikit-learn, a datasets.Dataset or DatasetDict"
)


def given(source: Any, *, also: str = "") -> Prepared:
    """The splits of data in memory.

    Args:
        source: a ``datasets.Dataset`` or ``DatasetDict``, a table of pandas or pyarrow, columns by name,
            a pair (x, y), x a table of pandas, an array with columns as :func:`columns_of` makes them or a
            list of rows, or a Bunch of scikit-learn with its feature names and ``target``.
        also: what else is allowed, for messages.

    Raises:
        UserError: it is something else.
    """
    import datasets

    # Whoever gives an object trusts the paths of images in it.
    folders = (os.sep,)
    if isinstance(source, datasets.DatasetDict):
        return Prepared(dict(source), {}, folders)
    return Prepared({"train": _dataset(source, also + ALLOWED)}, {}, folders)


def _dataset(source: Any, allowed: str) -> Any:
    import datasets
    import pyarrow as pa

    if isinstance(source, datasets.Dataset):
        return source
    with reading("source", f"the {type(source).__name__}", allowed):
        if isinstance(source, Mapping):
            source = _of_bunch(source) if {"data", "target"} <= source.keys() else _columns(source)
        elif isinstance(source, tuple) and len(source) == 2:
            source = _of_pair(*source)
        elif type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
            source = pa.Table.from_pandas(source, preserve_index=False)
        if isinstance(source, pa.Table):
            return datasets.Dataset(source)
    raise UserError(f"source: type {type(source).__name__} does not fit; allowed: {allowed}")


def _of_pair(x: Any, y: Any) -> Any:
    """A table of inputs x and a target, called y; columns of a pandas table x keep their names."""
    import pyarrow as pa

    if len(x) != len(y):
        raise UserError(f"source: {len(x)} rows of x and {len(y)} of y; allowed: as many of both")
    if not (type(x).__module__.startswith("pandas") and hasattr(x, "columns")):
        return _columns({**(_of_rows(x) or {"x": x}), "y": y})
    if "y" in x.columns:
        raise UserError("source: column 'y' of x has the target's name; allowed: other names")
    table = pa.Table.from_pandas(x, preserve_index=False)
    target = _columns({"y": y.to_numpy() if hasattr(y, "to_numpy") else y})
    return table.append_column("y", target.column("y"))


def _of_rows(x: Any) -> dict[str, Any] | None:
    """Columns x_1, …, x_d of a list of rows, as of an array (n, d); None if it is none.

    Raises:
        UserError: the rows have different lengths.
    """
    if not isinstance(x, list | tuple) or not all(isinstance(row, list | tuple) for row in x):
        return None
    if any(isinstance(value, list | tuple) for row in x for value in row):
        return None
    lengths = sorted({len(row) for row in x})
    if len(lengths) > 1:
        raise UserError(f"source: rows of {lengths[0]} and of {lengths[-1]} values in x; allowed: one length")
    return {f"x_{i}": list(values) for i, values in enumerate(zip(*x, strict=True), start=1)}


def _of_bunch(bunch: Mapping[str, Any]) -> Any:
    """A table of what ``sklearn.datasets.load_…`` gives, with names of classes where it has them."""
    import numpy as np

    x, y, names = bunch["data"], np.asarray(bunch["target"]), bunch.get("feature_names")
    x = np.asarray(x)
    classes = bunch.get("target_names")
    if classes is not None and np.issubdtype(y.dtype, np.integer) and len(classes) == y.max() + 1:
        y = np.asarray(classes).astype(str)[y]
    if names is None or len(names) != x.shape[1]:
        return _columns({"x": x, "target": y})
    return _columns({str(name): x[:, i] for i, name in enumerate(names)} | {"target": y})


def _columns(columns: Mapping[str, Any]) -> Any:
    """A table of columns by name, arrays or lists."""
    import pyarrow as pa

    return pa.table(
        {k: v for name, values in columns.items() for k, v in columns_of(str(name), values).items()}
    )


def columns_of(name: str, values: Any) -> dict[str, Any]:
    """Arrow columns of an array: of a table (n, d) name_1, …, name_d, else one, with lists for images (n, …).

    The two-dimensional array of a target is one column of lists.
    """
    import numpy as np
    import pyarrow as pa

    if not hasattr(values, "__array__") or type(values).__module__.startswith(("pandas", "pyarrow")):
        return {name: values}
    array = np.asarray(values)
    if array.ndim < 2:
        return {name: pa.array(array)}
    if array.ndim == 2 and name not in TARGET_NAMES:
        return {f"{name}_{i}": pa.array(array[:, i - 1]) for i in range(1, array.shape[1] + 1)}
    flat = np.ascontiguousarray(array).reshape(-1)
    return {name: pa.FixedSizeListArray.from_arrays(pa.array(flat), array.size // max(len(array), 1))}
