"""Converts nested records to one level, and lists of Python values to typed columns."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scaled_sgd.runs.rows import numbers


def flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings under dotted names; lists are kept."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def table_of(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """One float64 array (rows,) for every number in any of the records; NaN where it is missing."""
    columns: dict[str, np.ndarray] = {}
    for position, record in enumerate(records):
        for name, value in numbers(record):
            if name not in columns:
                columns[name] = np.full(len(records), math.nan)
            columns[name][position] = value
    return columns


def column(values: Sequence[Any]) -> pd.Series:
    """Values of JSON or YAML as one column of one type.

    Booleans, integers, floats and texts keep their type, with missing entries for None; lists, and values of
    mixed types, become JSON text.
    """
    present = [value for value in values if value is not None]
    gaps = len(present) < len(values)
    kinds = {type(value) for value in present}
    if not kinds:
        return pd.Series([None] * len(values), dtype=object)
    if kinds == {bool}:
        return pd.Series(list(values), dtype="boolean" if gaps else "bool")
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in present):
        return pd.Series(list(values), dtype="Int64" if gaps else "int64")
    if kinds <= {int, float}:
        return pd.Series([math.nan if value is None else float(value) for value in values])
    if kinds == {str}:
        return pd.Series(list(values))
    return pd.Series([None if value is None else _as_text(value) for value in values])


def in_order(names: Iterable[str], *, first: Sequence[str] = (), last: Sequence[str] = ()) -> list[str]:
    """Names with the given ones at the ends and layers in numerical order: ``scales.2``, ``scales.10``."""
    found = set(names)
    middle = sorted(found - set(first) - set(last), key=_natural)
    return [*(n for n in first if n in found), *middle, *(n for n in last if n in found)]


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    parts = re.split(r"\.", name)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
