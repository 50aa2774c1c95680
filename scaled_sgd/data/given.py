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

_ALLOWED = (
    "a path, an array, a pair of arrays (x, y), a table of pandas or pyarrow, columns by name, a "
    "datasets.Dataset or DatasetDict"
)


def given(source: Any) -> Prepared:
    """The splits of data in memory.

    Args:
        source: a ``datasets.Dataset`` or ``DatasetDict``, a table of pandas or pyarrow, columns by name,
            arrays (x, y) with columns as :func:`columns_of` makes them, or a Bunch of scikit-learn with its
            feature names and ``target``.

    Raises:
        UserError: it is something else.
    """
    import datasets

    # Whoever gives an object trusts the paths of images in it.
    folders = (os.sep,)
    if isinstance(source, datasets.DatasetDict):
        return Prepared(dict(source), {}, folders)
    return Prepared({"train": _dataset(source)}, {}, folders)


def _dataset(source: Any) -> Any:
    import datasets
    import pyarrow as pa

    if isinstance(source, datasets.Dataset):
        return source
    with reading("source", f"the {type(source).__name__}"):
        if isinstance(source, Mapping):
            source = _of_bunch(source) if {"data", "target"} <= source.keys() else _columns(source)
        elif isinstance(source, tuple) and len(source) == 2:
            source = _columns({"x": source[0], "y": source[1]})
        elif type(source).__module__.partition(".")[0] == "pandas":
            source = pa.Table.from_pandas(source, preserve_index=False)
        if isinstance(source, pa.Table):
            return datasets.Dataset(source)
    raise UserError(f"source: type {type(source).__name__} does not fit; allowed: {_ALLOWED}")


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
