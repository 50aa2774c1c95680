"""Loads training and held-out tensors from the `data.` configuration."""

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scaled_sgd.config.sections import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data.batches import Resident, Stream
from scaled_sgd.data.columns import Columns, find_columns, kind_of
from scaled_sgd.data.encoding import fit_encoding
from scaled_sgd.data.examples import Examples, hold_out, standardize, to_tensors
from scaled_sgd.data.sources import open_source
from scaled_sgd.data.splits import Split, pick_split

Task = Literal["classification", "regression"]
Loaded = tuple[Examples, Examples | None, tuple[str, ...] | None, Columns]


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
    """

    train: Resident | Stream
    evaluation: Resident
    in_features: int
    out_features: int
    task: Task
    class_names: tuple[str, ...] | None
    columns: Columns

    def describe(self) -> str:
        """One line about the data: columns that are used and columns that are not."""
        size = f"{len(self.train)}" if isinstance(self.train, Resident) else "a stream of"
        inputs = ", ".join(self.columns.inputs)
        text = f"{size} training and {len(self.evaluation)} held-out samples; inputs {inputs}"
        if self.columns.left_out:
            text += f" (left out: {', '.join(self.columns.left_out)})"
        text += f"; target {self.columns.target}"
        if self.class_names is None:
            return f"{text}, {self.out_features} numbers"
        shown = ", ".join(self.class_names[:5]) + (", …" if len(self.class_names) > 5 else "")
        return f"{text}, {len(self.class_names)} classes: {shown}"


def load_data(config: DataConfig, *, seed: int, quiet: bool = False) -> Data:
    """Load, decode and normalise a data set; the same on every rank.

    Args:
        config: The `data.` section.
        seed: Selects the held-out examples and those kept by `limit`.
        quiet: Show no progress bars.

    Raises:
        UserError: The configuration does not fit the data; one line says where.
    """
    _check(config)
    if config.streaming:
        return _load_stream(config, quiet=quiet)
    load = _load_digits if config.source == "digits" else _load_resident
    train, evaluation, class_names, columns = load(config, quiet=quiet)
    generator = np.random.default_rng(seed)
    if evaluation is None:
        if len(train.x) < 2:
            raise UserError(
                f"data.split: {config.split!r} has one row; allowed: two or more, to hold some out"
            )
        train, evaluation = hold_out(train, config.eval_fraction, generator)
    if config.limit is not None:
        train = train.take(generator.permutation(len(train.x))[: config.limit])
    if config.standardize:
        train, evaluation = standardize(train, evaluation)
    return _data(Resident(*to_tensors(train)), evaluation, class_names, columns)


def _check(config: DataConfig) -> None:
    if not config.streaming:
        return
    if config.source == "digits":
        raise UserError("data.streaming: true does not fit 'digits', which is in memory; allowed: false")
    if config.standardize:
        raise UserError("data.standardize: true does not fit data.streaming; allowed: false")
    if config.limit is not None:
        raise UserError(
            f"data.limit: {config.limit} does not fit data.streaming; allowed: null, and optim.steps"
        )
    if config.eval_split is None:
        raise UserError(
            "data.eval_split: null does not fit data.streaming, which holds nothing out; allowed: a split"
        )


def _load_digits(config: DataConfig, *, quiet: bool) -> Loaded:
    pick_split({"train": None}, config.split, "data.split")
    if config.eval_split is not None:
        raise UserError(
            f"data.eval_split: {config.eval_split!r} does not fit 'digits', which has one split; "
            "allowed: null, and data.eval_fraction"
        )
    if config.task == "regression":
        raise UserError(
            "data.task: 'regression' does not fit 'digits', which has classes; allowed: auto, classification"
        )
    for key, value in (("inputs", config.inputs), ("target", config.target)):
        if value is not None:
            raise UserError(
                f"data.{key}: {value!r} does not fit 'digits', which has no columns; allowed: null"
            )
    x, y = _read_digits()
    return (
        Examples(x.astype(np.float32), y.astype(np.int64)),
        None,
        tuple("0123456789"),
        Columns(("pixels",), "digit"),
    )


def _read_digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """Pixels (1797, 64) and digits (1797,) of ``sklearn.datasets.load_digits``.

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
    split, held_out = _open(config, quiet)
    columns = find_columns(split.features(), config.inputs, config.target)
    table = split.table(columns)
    encoding = fit_encoding(table, split.features(), columns, config.task)
    train = encoding.encode(table)
    if held_out is None:
        return train, None, encoding.class_names, columns
    held_out.check_like(split, columns)
    evaluation = encoding.encode(held_out.table(columns))
    _check_widths(train, evaluation)
    return train, evaluation, encoding.class_names, columns


def _load_stream(config: DataConfig, *, quiet: bool) -> Data:
    """Load a stream; image modes and integer classes, which need all rows, come from the held-out split."""
    split, held_out = _open(config, quiet)
    assert held_out is not None
    features = split.features()
    columns = find_columns(features, config.inputs, config.target)
    if kind_of(features[columns.target]) == "text":
        raise UserError(
            f"data.target: column {columns.target!r} holds text; "
            "allowed with data.streaming: class labels, integers and numbers"
        )
    held_out.check_like(split, columns)
    table = held_out.table(columns)
    encoding = fit_encoding(table, features, columns, config.task)
    evaluation = encoding.encode(table)
    first = encoding.encode(split.first().table(columns))
    _check_widths(evaluation, first)

    def decode(table: Any, first_row: int) -> tuple[Tensor, Tensor]:
        examples = encoding.encode(table, first_row)
        _check_widths(first, examples)
        return to_tensors(examples)

    x, y = to_tensors(first)
    train = Stream(partial(split.shuffled_tables, columns, config.shuffle_buffer), decode, (x[:0], y[:0]))
    return _data(train, evaluation, encoding.class_names, columns)


def _open(config: DataConfig, quiet: bool) -> tuple[Split, Split | None]:
    splits = open_source(config.source, streaming=config.streaming, quiet=quiet)
    split = pick_split(splits, config.split, "data.split")
    if config.eval_split is None:
        return split, None
    return split, pick_split(splits, config.eval_split, "data.eval_split")


def _check_widths(expected: Examples, found: Examples) -> None:
    for key, a, b in (("inputs", expected.x, found.x), ("target", expected.y, found.y)):
        if a.shape[1:] != b.shape[1:]:
            raise UserError(
                f"data.{key}: a split has rows of {b.shape[1]} numbers; allowed: {a.shape[1]} as in the other"
            )


def _data(
    train: Resident | Stream, evaluation: Examples, class_names: tuple[str, ...] | None, columns: Columns
) -> Data:
    held_out = Resident(*to_tensors(evaluation))
    width = held_out.x.shape[1]
    if class_names is None:
        return Data(train, held_out, width, held_out.y.shape[1], "regression", None, columns)
    return Data(train, held_out, width, len(class_names), "classification", class_names, columns)
