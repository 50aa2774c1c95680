"""Loads training and held-out tensors from the `data.` configuration."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scaled_sgd.config.combinations import check_data
from scaled_sgd.config.sections import DataConfig
from scaled_sgd.core.errors import UserError, printable
from scaled_sgd.data.batches import Resident, Stream
from scaled_sgd.data.columns import Columns, find_columns, kind_of, listed
from scaled_sgd.data.encoding import Encoding, fit_encoding
from scaled_sgd.data.examples import (
    Examples,
    Standardization,
    collapsed,
    hold_out,
    lost_constants,
    to_tensors,
)
from scaled_sgd.data.files import digest
from scaled_sgd.data.pipeline import Pipeline
from scaled_sgd.data.sources import open_source
from scaled_sgd.data.splits import pick_split

Task = Literal["classification", "regression"]

DIGITS = Columns(("pixels",), "digit")
"""Columns of the embedded digits."""


@dataclass(frozen=True)
class Loaded:
    """Decoded splits, before rows are held out, standardised and scaled."""

    train: Examples
    evaluation: Examples | None
    encoding: Encoding


@dataclass(frozen=True)
class Data:
    """Training and held-out examples, every row scaled to norm √m_0.

    Args:
        train: Tensors, or a stream when `data.streaming` is set.
        evaluation: Held-out examples.
        in_features: Width of an input, m_0.
        out_features: Number of classes, or width of a target.
        task: Whether targets are class ids or vectors.
        class_names: Class names in the order of their ids; None for regression.
        columns: Columns of the inputs and targets.
        pipeline: How further rows become inputs and targets in the same way.
        warnings: What the configuration asks for and the data lose, a line each.
    """

    train: Resident | Stream
    evaluation: Resident
    in_features: int
    out_features: int
    task: Task
    class_names: tuple[str, ...] | None
    columns: Columns
    pipeline: Pipeline
    warnings: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line about the data: columns that are used and columns that are not."""
        size = f"{len(self.train)}" if isinstance(self.train, Resident) else "a stream of"
        inputs = listed(self.columns.inputs)
        text = f"{size} training and {len(self.evaluation)} held-out samples; inputs {inputs}"
        if self.columns.left_out:
            text += f" (left out: {listed(self.columns.left_out)})"
        text += f"; target {self.columns.target}"
        if self.class_names is None:
            return printable(text + (f", {self.out_features} numbers" if self.out_features > 1 else ""))
        shown = ", ".join(self.class_names[:5]) + (", …" if len(self.class_names) > 5 else "")
        return printable(f"{text}, {len(self.class_names)} classes: {shown}")


def load_data(config: DataConfig, *, seed: int, quiet: bool = False) -> Data:
    """Load, decode and normalise a data set; the same on every rank.

    Args:
        config: The `data.` section.
        seed: Selects the held-out examples and those kept by `limit`.
        quiet: Show no progress bars.

    Raises:
        UserError: The configuration does not fit the data; one line says where.
    """
    check_data(config)
    if config.streaming:
        return _load_stream(config, quiet=quiet)
    loaded = _load_digits(config) if config.source == "digits" else _load_resident(config, quiet=quiet)
    train, evaluation = loaded.train, loaded.evaluation
    generator = np.random.default_rng(seed)
    if evaluation is None:
        if len(train.x) < 2:
            raise UserError(
                f"data.split: {config.split!r} has one row; allowed: two or more, to hold some out"
            )
        train, evaluation = hold_out(train, config.eval_fraction, generator)
    if config.limit is not None:
        train = train.take(generator.permutation(len(train.x))[: config.limit])
    warnings = [*_warnings(train, loaded.encoding.columns, standardized=config.standardize)]
    standardization = Standardization.of(train.x) if config.standardize else None
    if standardization is not None:
        train, evaluation = (Examples(standardization.apply(part.x), part.y) for part in (train, evaluation))
    return _data(Resident(*to_tensors(train)), evaluation, loaded.encoding, standardization, warnings)


def _warnings(examples: Examples, columns: Columns, *, standardized: bool) -> Iterator[str]:
    lost = lost_constants(examples) if standardized else []
    if lost:
        one_each = len(columns.inputs) == examples.x.shape[1]
        names = listed(columns.inputs[i] for i in lost) if one_each else f"{len(lost)} features"
        yield f"data.standardize: true makes constants 0, so no row keeps its magnitude by them: {names}"
    found = collapsed(examples.y) if examples.y.ndim == 2 else None
    if found is not None:
        yield (
            f"data.target: {found[0]:,} different values of {columns.target!r} are {found[1]:,} in float32; "
            "subtracted from the data, an offset (the first of Unix times, say) keeps them apart"
        )


def _load_digits(config: DataConfig) -> Loaded:
    x, y = read_digits()
    examples = Examples(x.astype(np.float32), y.astype(np.int64))
    return Loaded(examples, None, Encoding(DIGITS, {}, tuple(range(10)), tuple("0123456789")))


@cache
def read_digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """Pixels (1797, 64) and digits (1797,) of ``sklearn.datasets.load_digits``; not to be written to.

    Reads its file directly: importing scikit-learn takes longer than a short run.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x, y


def _load_resident(config: DataConfig, *, quiet: bool) -> Loaded:
    source = open_source(config.source, streaming=False, quiet=quiet)
    split = pick_split(source, config.split, "data.split")
    features = split.features()
    columns = find_columns(features, config.inputs, config.target)
    table = split.table(columns.used)
    encoding = fit_encoding(table, features, columns, config.task, folders=source.folders)
    train = encoding.encode(table)
    held_out = source.held_out if config.eval_split is None and config.split == "train" else config.eval_split
    if held_out is None:
        return Loaded(train, None, encoding)
    other = pick_split(source, held_out, "data.eval_split")
    other.check_like(split, columns)
    evaluation = encoding.encode(other.table(columns.used))
    _check_widths(train, evaluation)
    return Loaded(train, evaluation, encoding)


def _load_stream(config: DataConfig, *, quiet: bool) -> Data:
    """Load a stream; forms of images and integer classes need all rows, so the held-out split's are taken."""
    assert config.eval_split is not None
    source = open_source(config.source, streaming=True, quiet=quiet)
    split = pick_split(source, config.split, "data.split")
    held_out = pick_split(source, config.eval_split, "data.eval_split")
    features = split.features()
    columns = find_columns(features, config.inputs, config.target)
    if kind_of(features[columns.target]) == "text":
        raise UserError(
            f"data.target: column {columns.target!r} holds text; "
            "allowed with data.streaming: class labels, integers and numbers"
        )
    held_out.check_like(split, columns)
    table = held_out.table(columns.used)
    encoding = fit_encoding(table, features, columns, config.task, folders=source.folders, complete=False)
    evaluation = encoding.encode(table)
    first = encoding.encode(split.first().table(columns.used))
    _check_widths(evaluation, first)

    def decode(table: Any, first_row: int) -> tuple[Tensor, Tensor]:
        examples = encoding.encode(table, first_row)
        _check_widths(first, examples)
        return to_tensors(examples)

    x, y = to_tensors(first)
    tables = partial(split.shuffled_tables, columns, config.shuffle_buffer)
    train = Stream(tables, decode, (x[:0], y[:0]), digest=digest(split.files))
    warnings = [*_warnings(evaluation, columns, standardized=False)]
    return _data(train, evaluation, encoding, None, warnings)


def _check_widths(expected: Examples, found: Examples) -> None:
    for key, a, b in (("inputs", expected.x, found.x), ("target", expected.y, found.y)):
        if a.shape[1:] != b.shape[1:]:
            raise UserError(
                f"data.{key}: a split has rows of {b.shape[1]} numbers; allowed: {a.shape[1]} as in the other"
            )


def _data(
    train: Resident | Stream,
    evaluation: Examples,
    encoding: Encoding,
    standardization: Standardization | None,
    warnings: list[str],
) -> Data:
    held_out = Resident(*to_tensors(evaluation))
    width, names = held_out.x.shape[1], encoding.class_names
    task: Task = "regression" if names is None else "classification"
    out = held_out.y.shape[1] if names is None else len(names)
    pipeline = Pipeline(encoding, width, out, standardization)
    return Data(train, held_out, width, out, task, names, encoding.columns, pipeline, tuple(warnings))
