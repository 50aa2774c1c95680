"""Loads data that fit into memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from scaled_sgd.config.sections import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data.batches import Resident
from scaled_sgd.data.columns import Columns, find_columns, is_table, kind_of
from scaled_sgd.data.encoding import Encoding, fit_encoding
from scaled_sgd.data.examples import Array, Examples, collapsed, hold_out
from scaled_sgd.data.fitting import filled_note, fit_normalization, lost, settled, usable
from scaled_sgd.data.loaded import Data
from scaled_sgd.data.normalization import Moments, Standardization
from scaled_sgd.data.pipeline import Pipeline
from scaled_sgd.data.prepared import Prepared
from scaled_sgd.data.splits import Split, check_widths, held_out_splits, pick_split
from scaled_sgd.data.texts import Seen


def load_table(config: DataConfig, source: Prepared, *, seed: int) -> Data:
    """The splits of a source.

    Raises:
        UserError: the configuration does not fit the data.
    """
    split = pick_split(source, config.split, "data.split")
    features = split.features()
    found = find_columns(
        features, config.inputs, config.target, texts=config.categories > 0, notes=source.notes
    )
    table = split.table(found.used)

    def see(name: str) -> Seen:
        return Seen(config.categories).add(table.column(name))

    empty = _empty(table, features, found) if config.missing == "mean" else []
    columns, texts, warnings = usable(features, found, config, see, empty=empty)
    encoding = fit_encoding(table, features, columns, config.task, folders=source.folders)
    warnings += _too_many(encoding, features, len(table))
    notes, table_like = [*source.notes], is_table(features, columns)
    for name in held_out_splits(source, config):
        own = settled(config, table=table_like, held_out=name, dialect=source.dialect, texts=bool(texts))
        try:
            other = None if name is None else _other(source, split, name, columns)
            loaded = _load(own, encoding, table, other, seed=seed)
        except UserError as error:
            if name is None or config.eval_split != "auto":
                raise
            notes.append(
                f"data.eval_split: a part of {config.split!r}, for split {name!r} does not fit: {error}"
            )
            continue
        return replace(
            loaded,
            is_table=table_like,
            notes=(*notes, *loaded.notes),
            warnings=(*warnings, *loaded.warnings),
        )
    raise AssertionError("a part can always be held out")


def _empty(table: Any, features: Mapping[str, Any], columns: Columns) -> list[str]:
    """Columns of numbers of a table of which no row has one."""
    import pyarrow.compute as pc

    numbers = [name for name in columns.inputs if kind_of(features[name]) == "number"]
    missing = {name: pc.is_null(table.column(name), nan_is_null=True) for name in numbers}
    return [name for name, gaps in missing.items() if pc.all(gaps).as_py()]


def _too_many(encoding: Encoding, features: Mapping[str, Any], n: int) -> Iterator[str]:
    """A line about classes found among n targets that may be none: another one in most rows."""
    classes, name = encoding.classes, encoding.columns.target
    if classes is not None and 2 * len(classes) > n and kind_of(features[name]) != "class":
        are_texts = isinstance(classes[0], str)
        yield (
            f"data.target: column {name!r} has {len(classes)} classes in {n} rows; for regression: "
            + ("plain numbers ('1,250 €' and dates are text)" if are_texts else "data.task regression")
        )


def _other(source: Prepared, split: Split, name: str, columns: Columns) -> Any:
    """The table of the split to evaluate on."""
    other = pick_split(source, name, "data.eval_split")
    other.check_like(split, columns)
    return other.table(columns.used)


def _load(config: DataConfig, encoding: Encoding, table: Any, other: Any | None, *, seed: int) -> Data:
    """The data of a table, and of another one to evaluate on, if there is one."""
    train, held_out = _rows(config, len(table), seed=seed, split=other is None)
    texts = {
        name: Seen(config.categories).add(table.column(name).take(train)).sorted
        for name in encoding.columns.inputs
        if _is_text(table.column(name))
    }
    encoding = replace(encoding, texts=texts, gaps=config.missing != "refuse")
    examples = encoding.encode(table)
    if other is None:
        evaluation, unknown = examples.take(held_out), encoding.unknown(table.take(held_out))
    else:
        evaluation, unknown = encoding.encode(other), encoding.unknown(other)
        check_widths(examples, evaluation)
    layout = encoding.layout(table)
    data = _data(config, examples.take(train), evaluation, encoding, layout)
    return replace(data, warnings=(*data.warnings, *unknown))


def _is_text(column: Any) -> bool:
    import pyarrow.types as arrow

    return bool(arrow.is_string(column.type) or arrow.is_large_string(column.type))


def load_rows(config: DataConfig, examples: Examples, encoding: Encoding, *, seed: int) -> Data:
    """The data of decoded rows, a part of which is held out."""
    config = settled(config, table=False, held_out=None)
    train, held_out = _rows(config, len(examples.x), seed=seed, split=True)
    return _data(config, examples.take(train), examples.take(held_out), encoding, encoding.columns.inputs)


def _rows(config: DataConfig, n: int, *, seed: int, split: bool) -> tuple[Array, Array]:
    """Indices of training rows, and of held-out rows where the training split is split."""
    generator = np.random.default_rng(seed)
    train, held_out = np.arange(n), np.arange(0)
    if split:
        if n < 2:
            raise UserError(
                f"data.split: {config.split!r} has one row; allowed: two or more, to hold some out"
            )
        train, held_out = hold_out(n, config.eval_fraction, generator)
    if config.limit is not None:
        train = train[generator.permutation(len(train))[: config.limit]]
    return train, held_out


def _data(
    config: DataConfig, train: Examples, evaluation: Examples, encoding: Encoding, layout: Sequence[str]
) -> Data:
    """The tensors of decoded rows, with all that is fitted on the training rows.

    Args:
        config: settled, but for the target.
        train: rows to train on.
        evaluation: rows to evaluate on.
        encoding: of their columns.
        layout: see :meth:`Encoding.layout`; one name stands for all numbers of a row.
    """
    layout = layout if len(layout) == train.x.shape[1] else [layout[0]] * train.x.shape[1]
    own = np.array([name not in encoding.texts for name in layout], bool)
    moments = Moments.of(train.x if own.all() else train.x[:, own])
    normalization = fit_normalization(moments, layout, encoding.texts, config)
    notes = filled_note(moments, [name for name in layout if name not in encoding.texts], config)
    numbers = encoding.classes is None
    config = replace(config, standardize_target=config.standardize_target and numbers)
    scale = Standardization.of(Moments.of(train.y)) if config.standardize_target else None
    width = train.x.shape[1] + (normalization.constant is not None)
    outputs = train.y.shape[1] if encoding.class_names is None else len(encoding.class_names)
    pipeline = Pipeline(encoding, width, outputs, normalization, scale)

    def tensors(part: Examples) -> Resident:
        y = pipeline.scaled(part.y) if numbers else torch.from_numpy(part.y)
        return Resident(normalization.apply(part.x), y)

    warnings = [*lost(normalization, layout)]
    if numbers:
        warnings += same_in_float32(train.y if scale is None else scale.apply(train.y), encoding.columns)
    if scale is not None and not scale.deviations.any():
        warnings.append(
            f"data.target: column {encoding.columns.target!r} is {scale.means[0]:g} in all training rows: "
            "there is nothing to learn"
        )
    parts = tensors(train), tensors(evaluation)
    return Data(*parts, pipeline, config, notes=tuple(notes), warnings=tuple(warnings))


def same_in_float32(targets: Array, columns: Columns) -> Iterator[str]:
    """A line about targets that are the same in float32."""
    found = collapsed(targets)
    if found is not None:
        yield (
            f"data.target: {found[0]:,} different values of {columns.target!r} are {found[1]:,} in float32; "
            "subtracted from the data, an offset (the first of Unix times, say) keeps them apart"
        )
