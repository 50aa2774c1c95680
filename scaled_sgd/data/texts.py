"""Columns of text as inputs: one number for each text of a column, 1 where a row has it, else 0."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaled_sgd.core.errors import UserError

Texts = tuple[str | None, ...]
"""The texts of a column in sorted order; None, the last, stands for empty cells."""

_DATE = r"^(\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./-]\d{1,2}[./-]\d{2,4})([T ].*)?$"


@dataclass
class Seen:
    """What a column of text holds in the rows seen so far.

    Attributes:
        most: more different texts than this are not collected.
        texts: different texts; None for empty cells.
        rows: number of rows.
        dates: whether all texts are dates.
    """

    most: int
    texts: set[str | None] = field(default_factory=set)
    rows: int = 0
    dates: bool = True

    def add(self, column: Any) -> "Seen":
        """See further rows."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = column.cast(pa.large_string())
        self.rows += len(column)
        if len(self.texts) <= self.most:
            self.texts |= set(pc.unique(column).to_pylist())
        if self.dates:
            self.dates = bool(pc.all(pc.match_substring_regex(column.drop_null(), _DATE)).as_py())
        return self

    @property
    def sorted(self) -> Texts:
        """The texts in order."""
        empty = (None,) if None in self.texts else ()
        return (*sorted(text for text in self.texts if text is not None), *empty)

    @property
    def why_not(self) -> str | None:
        """Why the column is not taken for an input unasked; None: it is."""
        if len(self.texts) < 2:
            return "the same in all rows"
        if self.dates:
            return "dates"
        if len(self.texts) > self.most:
            return f"more than {self.most:,} texts"
        return "different in most rows" if 2 * len(self.texts) > self.rows else None


def one_hot(column: Any, texts: Texts) -> NDArray[np.float32]:
    """Rows (n, len(texts)); a text that is not among ``texts`` has a row of zeros."""
    ids = _ids(column, texts)
    rows = np.zeros((len(ids), len(texts)), np.float32)
    known = np.flatnonzero(ids >= 0)
    rows[known, ids[known]] = 1
    return rows


def unknown(column: Any, texts: Texts, name: str) -> Iterator[str]:
    """A line about the cells whose text is not among ``texts``, if there are any."""
    there = _ids(column, texts) >= 0
    if not there.all():
        first = column[int(there.argmin())].as_py()
        others = len(there) - int(there.sum())
        yield (
            f"data.inputs: column {name!r}: {others:,} of {len(there):,} rows hold what "
            f"no training row has, such as {first!r}: they count as none of its texts"
        )


def _ids(column: Any, texts: Texts) -> NDArray[np.int64]:
    """The place of each cell's text among ``texts``, or -1."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = pc.index_in(column.cast(pa.large_string()), value_set=pa.array(texts, pa.large_string()))
    return np.asarray(pc.fill_null(ids, -1).to_numpy(), np.int64)


def refuse_gaps(column: Any, name: str, first_row: int) -> None:
    """Refuse a column of text with empty cells.

    Raises:
        UserError: names the first.
    """
    import pyarrow.compute as pc

    if column.null_count:
        row = first_row + pc.index(pc.is_null(column), True).as_py()
        raise UserError(
            f"data.inputs: column {name!r}, row {row}: nothing ({column.null_count} of {len(column)} rows); "
            "allowed: text"
        )
