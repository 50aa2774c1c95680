"""Data that a seed generates: sparse parities, and a linear teacher on inputs with a power-law spectrum.

The same on every process, machine and library version: rows come in blocks, each from its own generator.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scaled_sgd.config.sections import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data.batches import Stream
from scaled_sgd.data.columns import Columns
from scaled_sgd.data.encoding import Encoding
from scaled_sgd.data.examples import Array, Examples
from scaled_sgd.data.loaded import Data
from scaled_sgd.data.prepared import Prepared
from scaled_sgd.data.resident import load_rows

_BLOCK = 4096
_FIXED, _FRESH, _ONLINE, _TEACHER = range(4)
"""What a generator is for; its key begins with the seed and one of these."""


@dataclass(frozen=True)
class Source:
    """A generated source.

    Attributes:
        column: name of the input column, a list of `data.features` numbers.
        target: name of the target column.
        classes: label values; None: numbers.
        draw: makes n rows x (n, m_0) and targets, class ids (n,) or numbers (n, 1), from a generator.
    """

    column: str
    target: str
    classes: tuple[int, ...] | None
    draw: Callable[[DataConfig, np.random.Generator, int], Examples]


def _parity(config: DataConfig, generator: np.random.Generator, n: int) -> Examples:
    """Bits ±1 and the product of the first k of them (arXiv 2207.08799); by symmetry any k would do."""
    x = 2.0 * generator.integers(0, 2, (n, config.features)) - 1
    product = x[:, : config.parity_bits].prod(axis=1)
    return Examples(x.astype(np.float32), (product > 0).astype(np.int64))


def _teacher(config: DataConfig, generator: np.random.Generator, n: int) -> Examples:
    """Inputs with variances ∝ k^−b and one norm, and w·x with λ_k w_k² ∝ k^−a (arXiv 2402.01092).

    The network sees x, or random projections A x of it.
    """
    k = np.arange(1.0, config.features + 1)
    variances = k**-config.spectrum
    signs = np.random.default_rng([config.seed, _TEACHER]).choice([-1.0, 1.0], config.features)
    w = signs * np.sqrt(k**-config.signal / variances)
    x = generator.standard_normal((n, config.features)) * np.sqrt(variances)
    x *= np.sqrt(config.features) / np.linalg.norm(x, axis=1, keepdims=True)
    y = x @ w
    # The noise is relative to the teacher's own deviation, that of Gaussian inputs of this norm.
    size = np.sqrt(config.features * (k**-config.signal).sum() / variances.sum())
    if config.random_features is not None:
        A = np.random.default_rng([config.seed, _TEACHER, 1]).standard_normal(
            (config.random_features, config.features)
        )
        x = x @ A.T
    return Examples(x.astype(np.float32), (y + config.noise * size * generator.standard_normal(n))[:, None])


SOURCES: Mapping[str, Source] = {
    "parity": Source("bits", "parity", (-1, 1), _parity),
    "teacher": Source("features", "y", None, _teacher),
}


def load_generated(config: DataConfig, *, seed: int) -> Data:
    """`data.samples` rows, a part of which is held out; with `data.streaming` further ones at every step.

    Raises:
        UserError: more bits in the parity than there are.
    """
    source = _checked(config)
    rows = _rows(source, config, _FIXED, config.samples)
    numbers = source.classes is None or config.task == "regression"
    fixed = replace(config, limit=None) if config.streaming else config
    found = load_rows(fixed, _as_numbers(rows) if numbers else rows, _encoding(source, numbers), seed=seed)
    if not config.streaming:
        return found

    def tables(epoch_seed: int, size: int) -> Iterator[_Table]:
        for number in range(2**62):
            yield _Table((epoch_seed, number), size, slice(0, size))

    def decode(table: _Table, _first_row: int) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng([config.seed, _ONLINE, *table.place])
        drawn = source.draw(config, generator, table.size).take(np.arange(table.size)[table.rows])
        drawn = _as_numbers(drawn) if numbers else drawn
        y = found.pipeline.scaled(drawn.y) if numbers else torch.from_numpy(drawn.y)
        return found.pipeline.normalization.apply(drawn.x), y

    first = found.train
    empty = first.x[:0], first.y[:0]  # type: ignore[union-attr]
    settled = replace(found.config, eval_split=config.eval_split)
    return replace(found, config=settled, train=Stream(tables, decode, empty, digest=_named(config)))


def fresh_rows(config: DataConfig) -> Prepared:
    """New rows of a generated source, as many as it has, which no training saw."""
    import datasets

    source = _checked(config)
    rows = _rows(source, config, _FRESH, config.samples)
    y = rows.y[:, 0] if rows.y.ndim == 2 else np.array(source.classes)[rows.y]
    columns = {source.column: rows.x.tolist(), source.target: y.tolist()}
    return Prepared({"train": datasets.Dataset.from_dict(columns)}, {}, ())


@dataclass(frozen=True)
class _Table:
    """Some rows of a global minibatch that are still to be drawn.

    Attributes:
        place: seed of the epoch and number of the minibatch.
        size: rows of the minibatch.
        rows: which of them.
    """

    place: tuple[int, int]
    size: int
    rows: slice

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)

    def slice(self, offset: int, length: int) -> "_Table":
        """Some of these rows."""
        return replace(self, rows=slice(self.rows.start + offset, self.rows.start + offset + length))


def _checked(config: DataConfig) -> Source:
    if config.source == "parity" and config.parity_bits > config.features:
        raise UserError(
            f"data.parity_bits: {config.parity_bits} is not usable; allowed: integers from 1 to "
            f"{config.features} with data.features {config.features}"
        )
    return SOURCES[config.source]


def _named(config: DataConfig) -> str:
    """What decides further rows, as text."""
    keys = ("source", "features", "random_features", "parity_bits", "spectrum", "signal", "noise", "seed")
    return ", ".join(f"{key} {getattr(config, key)}" for key in keys)


def _rows(source: Source, config: DataConfig, purpose: int, n: int) -> Examples:
    """The first n rows for a purpose."""
    parts = [
        source.draw(config, np.random.default_rng([config.seed, purpose, start]), min(_BLOCK, n - start))
        for start in range(0, n, _BLOCK)
    ]
    x, y = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y"))
    return Examples(x, y)


def _as_numbers(rows: Examples) -> Examples:
    """Targets as numbers (n, 1): classes as ±1."""
    y: Array = rows.y if rows.y.ndim == 2 else (2.0 * rows.y - 1)[:, None]
    return Examples(rows.x, y)


def _encoding(source: Source, numbers: bool) -> Encoding:
    columns = Columns((source.column,), source.target)
    if numbers:
        return Encoding(columns, {}, None, None)
    assert source.classes is not None
    return Encoding(columns, {}, source.classes, tuple(map(str, source.classes)))
