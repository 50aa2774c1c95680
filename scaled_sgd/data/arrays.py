"""NumPy's files: ``.npz`` with an array for each column, ``.npy`` with a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scaled_sgd.core.errors import UserError
from scaled_sgd.data.given import columns_of

_SPLITS = ("train", "test", "validation", "valid", "val")


def read_arrays(path: Path, *, streaming: bool) -> Mapping[str, Any]:
    """The splits of a file.

    The arrays of an ``.npz`` are columns as :func:`columns_of` makes them: tables ``x`` (n, d) give ``x_1``,
    …, images (n, …) lists, ``y`` (n,) numbers or text. Where names end in ``_train``, ``_test``, …, these are
    splits. An ``.npy`` is a table (n, d) with columns ``column_1``, ``column_2``, …, or the fields of a
    structured array.

    Raises:
        UserError: the file is to be streamed, or an array does not fit.
        ValueError: it is damaged, or holds objects.
    """
    if streaming:
        raise UserError(f"data.streaming: true does not fit {path.name!r}, held in memory; allowed: false")
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return {"train": _table(path, _columns(path, found))}
    with found:
        arrays = {name: found[name] for name in found.files}
    splits: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        base, _, end = name.rpartition("_")
        split, column = (end, base) if base and end in _SPLITS else ("train", name)
        splits.setdefault(split, {})[column] = array
    return {split: _table(path, columns) for split, columns in splits.items()}


def _columns(path: Path, array: Any) -> dict[str, Any]:
    if array.dtype.names:
        return {name: array[name] for name in array.dtype.names}
    if array.ndim != 2:
        raise UserError(
            f"data.source: {path.name!r} holds an array of shape {array.shape}; allowed: a table (n, d), or "
            "an .npz with arrays x and y"
        )
    return {f"column_{i}": array[:, i - 1] for i in range(1, array.shape[1] + 1)}


def _table(path: Path, columns: dict[str, Any]) -> Any:
    import datasets
    import pyarrow as pa

    lengths = {name: len(array) if array.ndim else None for name, array in columns.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        said = ", ".join(f"{name} {columns[name].shape}" for name in lengths)
        raise UserError(f"data.source: {path.name!r} holds {said}; allowed: arrays of one length")
    found = {k: v for name, array in columns.items() for k, v in columns_of(name, array).items()}
    return datasets.Dataset(pa.table(found))
