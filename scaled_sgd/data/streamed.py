"""Loads data that are read while training.

What needs all rows (texts, means, deviations) is found in one pass over the training split, before training;
forms of images and integer classes are those of the held-out split.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.config.sections import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data.batches import Resident, Stream
from scaled_sgd.data.columns import Columns, find_columns, is_table, kind_of, listed
from scaled_sgd.data.encoding import Encoding, fit_encoding
from scaled_sgd.data.examples import Examples
from scaled_sgd.data.files import digest
from scaled_sgd.data.fitting import filled_note, fit_normalization, lost, settled, usable
from scaled_sgd.data.loaded import Data
from scaled_sgd.data.normalization import Moments, Normalization, Standardization
from scaled_sgd.data.pipeline import Pipeline
from scaled_sgd.data.prepared import Prepared
from scaled_sgd.data.resident import same_in_float32
from scaled_sgd.data.splits import Split, check_widths, held_out_splits, pick_split
from scaled_sgd.data.texts import Seen


@dataclass
class _Pass:
    """What a pass over the training split has found so far.

    Attributes:
        config: settled, but for the target.
        encoding: of the columns, without texts.
        seen: columns of text.
        inputs: moments of the numbers that come from no text.
        targets: moments of numbers as targets.
    """

    config: DataConfig
    encoding: Encoding
    seen: dict[str, Seen] = field(default_factory=dict)
    inputs: Moments | None = None
    targets: Moments | None = None

    def run(self, split: Split, texts: tuple[str, ...]) -> None:
        """Read all rows of a split."""
        columns, config = self.encoding.columns, self.config
        own = tuple(name for name in columns.inputs if name not in texts)
        of_inputs = bool(own) and bool(config.standardize or config.constant or config.missing == "mean")
        of_targets = self.encoding.classes is None and config.standardize_target
        names = [*texts, *(own if of_inputs else ()), *([columns.target] if of_targets else ())]
        numbers = replace(
            self.encoding, columns=Columns(own, columns.target), gaps=config.missing != "refuse"
        )
        self.seen = {name: Seen(config.categories) for name in texts}
        row = 0
        for table in split.chunks(names) if names else ():
            for name, seen in self.seen.items():
                seen.add(table.column(name))
            if of_inputs:
                self.inputs = _merged(self.inputs, Moments.of(numbers.inputs(table, row)))
            if of_targets:
                self.targets = _merged(self.targets, Moments.of(numbers.targets(table, row)))
            row += len(table)

    def empty(self, texts: tuple[str, ...]) -> list[str]:
        """Columns of numbers of a table of which no row has one."""
        own = [name for name in self.encoding.columns.inputs if name not in texts]
        counts = [] if self.inputs is None else self.inputs.counts.tolist()
        return [name for name, count in zip(own, counts, strict=False) if not count]


def _merged(before: Moments | None, further: Moments) -> Moments:
    return further if before is None else before.merged(further)


def load_stream(config: DataConfig, source: Prepared) -> Data:
    """A stream, and its held-out split in memory.

    Raises:
        UserError: the configuration does not fit the data.
    """
    split = pick_split(source, config.split, "data.split")
    (name, *_) = held_out_splits(source, config)
    if name is None:
        raise UserError(
            "data.eval_split: 'auto' finds no split 'test'; allowed with data.streaming: "
            f"{listed(source.splits)}"
        )
    held_out = pick_split(source, name, "data.eval_split")
    features = split.features()
    columns = find_columns(
        features, config.inputs, config.target, texts=config.categories > 0, notes=source.notes
    )
    if kind_of(features[columns.target]) == "text":
        raise UserError(
            f"data.target: column {columns.target!r} holds text; "
            "allowed with data.streaming: class labels, integers and numbers"
        )
    held_out.check_like(split, columns)
    table = held_out.table(columns.used)
    encoding = fit_encoding(table, features, columns, config.task, folders=source.folders, complete=False)
    asked = tuple(name for name in columns.inputs if kind_of(features[name]) == "text")
    config = settled(
        config,
        table=is_table(features, columns),
        held_out=name,
        dialect=source.dialect,
        texts=bool(asked),
    )
    found = _Pass(config, encoding)
    found.run(split, asked)
    empty = found.empty(asked) if config.missing == "mean" else []
    columns, texts, warnings = usable(features, columns, config, found.seen.__getitem__, empty=empty)
    if empty and found.inputs is not None and config.inputs is None:
        found.inputs = found.inputs.taken(found.inputs.counts > 0)
    encoding = replace(encoding, columns=columns, texts=texts, gaps=config.missing != "refuse")
    return _data(config, encoding, found, table, split, notes=source.notes, warnings=warnings)


def _data(
    config: DataConfig,
    encoding: Encoding,
    found: _Pass,
    table: Any,
    split: Split,
    *,
    notes: tuple[str, ...],
    warnings: list[str],
) -> Data:
    columns = encoding.columns
    evaluation = encoding.encode(table)
    first = encoding.encode(split.first().table(columns.used))
    check_widths(evaluation, first)
    layout = encoding.layout(table)
    moments = found.inputs or Moments.of(first.x[:, :0])
    normalization = (
        fit_normalization(moments, layout, encoding.texts, config)
        if config.standardize or config.constant or config.missing != "refuse"
        else Normalization()
    )
    numbers = encoding.classes is None
    config = replace(config, standardize_target=config.standardize_target and numbers)
    scale = None if found.targets is None else Standardization.of(found.targets)
    width = first.x.shape[1] + (normalization.constant is not None)
    outputs = first.y.shape[1] if encoding.class_names is None else len(encoding.class_names)
    pipeline = Pipeline(encoding, width, outputs, normalization, scale)

    def tensors(examples: Examples) -> tuple[Tensor, Tensor]:
        y = pipeline.scaled(examples.y) if numbers else torch.from_numpy(examples.y)
        return normalization.apply(examples.x), y

    def decode(rows: Any, first_row: int) -> tuple[Tensor, Tensor]:
        examples = encoding.encode(rows, first_row)
        check_widths(first, examples)
        return tensors(examples)

    names = [name for name in layout if name not in encoding.texts]
    notes = (*notes, *(() if found.inputs is None else filled_note(found.inputs, names, config)))
    x, y = tensors(first)
    tables = partial(split.shuffled_tables, columns, config.shuffle_buffer)
    train = Stream(tables, decode, (x[:0], y[:0]), digest=digest(split.files))
    warnings = [
        *warnings,
        *lost(normalization, layout),
        *encoding.unknown(table),
        *_same(evaluation, scale, columns),
    ]
    held_out = Resident(*tensors(evaluation))
    return Data(train, held_out, pipeline, config, notes=notes, warnings=tuple(warnings))


def _same(evaluation: Examples, scale: Standardization | None, columns: Columns) -> Iterator[str]:
    if evaluation.y.ndim == 2:
        yield from same_in_float32(evaluation.y if scale is None else scale.apply(evaluation.y), columns)
