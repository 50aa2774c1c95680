"""How a CSV file is written: its separator, whether its first line holds names, its decimal mark."""

import csv
import gzip
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, cast

from scaled_sgd.config.sections import DataConfig
from scaled_sgd.core.errors import UserError

SEPARATORS = ",;\t|"
_LINES = 50
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_INTEGER = re.compile(r"\s*\d+\s*")
_COMMA = re.compile(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*")
_YEARS = range(1900, 2101)


@dataclass(frozen=True)
class Asked:
    """What is asked of CSV files; None: it is found.

    Attributes:
        separator: of columns.
        header: whether the first line holds names.
        codes: whether integers with leading zeros are text.
        texts: columns that are text, whatever they hold.
        numbers: columns whose integers with leading zeros are numbers all the same.
    """

    separator: str | None = None
    header: bool | None = None
    codes: bool = True
    texts: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: DataConfig) -> "Asked":
        """What a configuration asks."""
        return cls(config.separator, config.header, config.codes == "text")


@dataclass(frozen=True)
class Dialect:
    """A way to write CSV files.

    Attributes:
        separator: of columns.
        header: whether the first line holds names.
        decimal: ``.``, or ``,`` beside other separators.
        names: of the columns; column_1, column_2, … without a header.
        closed: whether lines of values, unlike that of names, end with a separator.
    """

    separator: str
    header: bool
    decimal: str
    names: tuple[str, ...]
    closed: bool = False

    def notes(self, name: str) -> Iterator[str]:
        """A line for what is not as usual in a file of this name."""
        if self.separator not in (",", "\t"):
            decimal = ", decimals by ','" if self.decimal == "," else ""
            yield f"data.separator: columns of {name!r} are separated by {self.separator!r}{decimal}"
        if not self.header:
            yield (
                f"data.header: the first line of {name!r} holds values, no names: its columns are "
                f"column_1 to column_{len(self.names)}"
            )


def opened(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked."""
    return cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def dialect_of(path: Path, asked: Asked) -> Dialect:
    """The dialect of a file.

    Raises:
        UserError: a column is named twice: a reader would silently rename the second.
        UnicodeDecodeError: the file is not in UTF-8.
    """
    with opened(path) as found, io.TextIOWrapper(found, encoding="utf-8-sig", newline="") as stream:
        lines = [line for line in islice(stream, _LINES) if line.strip()]
    usual = "\t" if ".tsv" in path.suffixes else ","
    separator = _separator(lines, usual) if asked.separator is None else asked.separator
    rows = list(csv.reader(lines, delimiter=separator))
    first = rows[0] if rows else []
    header = asked.header
    if header is None:
        header = len(rows) < 2 or not _holds_values(first)
    twice = [name for name, count in Counter(first if header else []).items() if name and count > 1]
    if twice:
        raise UserError(
            f"data.source: {path.name!r} has several columns {twice[0]!r}; allowed: each name once, or "
            "data.header false if its first line holds values"
        )
    names = tuple(first) if header else tuple(f"column_{i}" for i in range(1, len(first) + 1))
    values = rows[1:] if header else []
    closed = bool(values) and all(len(row) == len(first) + 1 and not row[-1] for row in values)
    return Dialect(separator, header, _decimal(rows) if separator != "," else ".", names, closed)


def _separator(lines: Sequence[str], usual: str) -> str:
    """The first that gives all lines equally many fields, else the one that the first line has most of."""
    order = (usual, *(one for one in SEPARATORS if one != usual))
    for one in order:
        counts = {len(row) for row in csv.reader(lines, delimiter=one)}
        if len(counts) == 1 and min(counts) > 1:
            return one
    first = next(iter(lines), "")
    return max(order, key=first.count)


def _holds_values(fields: Sequence[str]) -> bool:
    """Whether fields of a first line are values: some are numbers that nobody counts columns by."""
    numbers = [field for field in fields if _NUMBER.fullmatch(field)]
    if not all(_INTEGER.fullmatch(field) for field in numbers):
        return True
    integers = [int(field) for field in numbers]
    steps = {b - a for a, b in pairwise(integers)}
    counted = len(steps) == 1 and min(steps) > 0
    return bool(integers) and not counted and not all(one in _YEARS or one == 0 for one in integers)


def _decimal(rows: Sequence[Sequence[str]]) -> str:
    """The comma, if some fields are numbers with one and none is a decimal with a point."""
    fields = [field for row in rows[1:] for field in row]
    with_point = any(
        _NUMBER.fullmatch(field) and not _INTEGER.fullmatch(field) and "." in field for field in fields
    )
    return "," if not with_point and any(_COMMA.fullmatch(field) for field in fields) else "."
