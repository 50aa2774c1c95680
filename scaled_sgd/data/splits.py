"""Arrow tables from a split, resident or streamed, with undecoded images."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from scaled_sgd.config.sections import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data.columns import Columns, kind_of, listed
from scaled_sgd.data.examples import Examples
from scaled_sgd.data.given import ALLOWED
from scaled_sgd.data.prepared import Prepared
from scaled_sgd.data.reading import reading

CHUNK = 1000


@dataclass(frozen=True)
class Split:
    """A split and the configuration key that names it.

    Args:
        rows: `datasets.Dataset` or `datasets.IterableDataset`.
        name: Name of the split.
        key: Configuration key, for messages.
        files: Files that hold it; none of data in memory.
    """

    rows: Any
    name: str
    key: str
    files: tuple[str, ...] = ()

    def features(self) -> dict[str, Any]:
        """Features by column; read from the first row if a stream does not declare them."""
        from datasets import Features

        if self.rows.features is not None:
            return dict(self.rows.features)
        with self._reading():
            first = next(iter(self.rows.with_format("arrow").iter(batch_size=1)), None)
        return dict(Features.from_arrow_schema(first.schema)) if first is not None else self._refuse_empty()

    def first(self) -> "Split":
        """A split with only the first row."""
        return replace(self, rows=self.rows.take(1))

    def table(self, names: Sequence[str]) -> Any:
        """The columns ``names`` of all rows as one `pyarrow.Table`."""
        import pyarrow as pa

        with self._reading():
            chunks = list(self.chunks(names))
            return pa.concat_tables(chunks, promote_options="permissive") if chunks else self._refuse_empty()

    def chunks(self, names: Sequence[str]) -> Iterator[Any]:
        """The columns ``names`` of all rows in their order, as tables of some rows."""
        yield from self._selected(names).iter(batch_size=CHUNK)

    def shuffled_tables(self, columns: Columns, buffer: int, seed: int, batch_size: int) -> Iterator[Any]:
        """Minibatches of a stream, in an order that depends only on the seed and the buffer."""
        with self._reading():
            rows = self._selected(columns.used).shuffle(seed=seed, buffer_size=buffer)
            yield from rows.iter(batch_size=batch_size)

    def check_like(self, trained: "Split", columns: Columns) -> None:
        """Refuse a split without the training split's columns, or with other class names."""
        features = self.features()
        for column in columns.used:
            if column not in features:
                raise UserError(
                    f"{self.key}: split {self.name!r} has no column {column!r}, only {listed(features)}; "
                    "allowed: a split with the columns of training"
                )
        labels = [features[columns.target], trained.features()[columns.target]]
        if all(kind_of(label) == "class" for label in labels) and labels[0].names != labels[1].names:
            raise UserError(
                f"{self.key}: split {self.name!r} has classes {listed(labels[0].names)} in "
                f"{columns.target!r}; allowed: those of {trained.name!r}, {listed(labels[1].names)}"
            )

    def _selected(self, names: Sequence[str]) -> Any:
        # Selecting copies the description of every column several times.
        whole = len(names) == len(self.rows.column_names or ())
        rows = self.rows if whole else self.rows.select_columns([*names])
        return rows.with_format("arrow")

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.key, f"split {self.name!r}", None if self.files else ALLOWED)

    def _refuse_empty(self) -> Any:
        raise UserError(f"{self.key}: split {self.name!r} has no rows; allowed: at least one")


def held_out_splits(source: Prepared, config: DataConfig) -> tuple[str | None, ...]:
    """Splits to evaluate on, the next one where one does not fit; None: a part of the training split."""
    if config.eval_split not in ("auto", None):
        return (config.eval_split,)
    found = source.held_out
    if config.eval_split == "auto" and "test" in source.splits:
        found = found or "test"
    return (found, None) if found is not None and config.split == "train" else (None,)


def check_widths(expected: Examples, found: Examples) -> None:
    """Refuse rows of another width.

    Raises:
        UserError: names inputs or target.
    """
    for key, a, b in (("inputs", expected.x, found.x), ("target", expected.y, found.y)):
        if a.shape[1:] != b.shape[1:]:
            raise UserError(
                f"data.{key}: a split has rows of {b.shape[1]} numbers; allowed: {a.shape[1]} as in the other"
            )


def pick_split(source: Prepared, name: str, key: str) -> Split:
    """The split with this name."""
    if name not in source.splits:
        raise UserError(f"{key}: no split {name!r}; allowed: {listed(source.splits)}")
    return Split(source.splits[name], name, key, source.files.get(name, ()))
