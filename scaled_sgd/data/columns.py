"""Finds the input columns and the target column from the features of a data set."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from scaled_sgd.core.errors import UserError

TARGET_NAMES = ("label", "labels", "target", "y", "class")
INDEX_NAME = re.compile(
    r"__index_level_\d+__|Unnamed: 0(\.\d+)*"
)  # row numbers that pandas writes as columns
INPUT_KINDS = ("image", "vector", "number")

DATES = "numbers instead, such as days since the first date, or the month"
"""What a column of dates can be given as."""

Kind = Literal["image", "class", "vector", "number", "text", "date", "other"]


@dataclass(frozen=True)
class Columns:
    """Names of the input columns, in order, of the target column, and of unused columns."""

    inputs: tuple[str, ...]
    target: str
    left_out: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[str, ...]:
        """The inputs and the target."""
        return (*self.inputs, self.target)


def kind_of(feature: Any) -> Kind:
    """The kind of a `datasets` feature; a vector is a list or array of numbers of any rank."""
    import pyarrow.types as arrow
    from datasets import ClassLabel, Features, Image, Value

    if isinstance(feature, Image):
        return "image"
    if isinstance(feature, ClassLabel):
        return "class"
    type_ = (
        feature.pa_type if isinstance(feature, Value) else Features({"_": feature}).arrow_schema.field(0).type
    )
    nested = False
    while hasattr(type_, "storage_type") or hasattr(type_, "value_type"):
        nested = True
        type_ = type_.storage_type if hasattr(type_, "storage_type") else type_.value_type
    if arrow.is_integer(type_) or arrow.is_floating(type_) or arrow.is_boolean(type_):
        return "vector" if nested else "number"
    if not nested and (arrow.is_string(type_) or arrow.is_large_string(type_)):
        return "text"
    return "date" if arrow.is_temporal(type_) else "other"


def is_table(features: dict[str, Any], columns: Columns) -> bool:
    """Whether all inputs are columns of numbers or text, not images or lists."""
    return all(kind_of(features[name]) in ("number", "text") for name in columns.inputs)


def find_columns(
    features: dict[str, Any],
    inputs: list[str] | None,
    target: str | None,
    *,
    texts: bool = False,
    notes: tuple[str, ...] = (),
) -> Columns:
    """The named columns if names are given, else columns chosen by their features.

    Target: the only class-label column, else the first column called label, labels, target, y or class.
    Inputs: the image column, else the list column, else all columns of numbers and, with ``texts``, of text
    except the target and an index written by pandas.

    Raises:
        UserError: A named column is missing or unusable, or the choice is ambiguous; ``notes``, what was
            found in the files, end the line.
    """
    try:
        return _found_columns(features, inputs, target, texts=texts)
    except UserError as error:
        raise UserError("; ".join((str(error), *notes))) from None


def _found_columns(
    features: dict[str, Any], inputs: list[str] | None, target: str | None, *, texts: bool
) -> Columns:
    kinds = {name: kind_of(feature) for name, feature in features.items()}
    if target is None:
        named = set(inputs or ())
        target = _find_target({name: kind for name, kind in kinds.items() if name not in named})
    elif target not in kinds:
        raise UserError(f"data.target: no column {target!r}; allowed: {listed(kinds)}")
    if kinds[target] in ("image", "date", "other"):
        raise UserError(f"data.target: column {target!r} is {features[target]}; allowed: classes and numbers")
    if inputs is None:
        found = _find_inputs({name: kind for name, kind in kinds.items() if name != target}, texts=texts)
        return Columns(found, target, _without(kinds, (*found, target)))
    if not inputs:
        raise UserError(f"data.inputs: the list is empty; allowed: {listed(kinds)}")
    times = Counter(inputs)
    for name in inputs:
        if name not in kinds:
            raise UserError(f"data.inputs: no column {name!r}; allowed: {listed(kinds)}")
        if times[name] > 1:
            raise UserError(f"data.inputs: column {name!r} is there twice; allowed: each column once")
        if name == target:
            raise UserError(f"data.inputs: column {name!r} is the target; allowed: other columns")
        if kinds[name] == "date":
            raise UserError(f"data.inputs: column {name!r} holds dates; allowed: {DATES}")
        if kinds[name] not in INPUT_KINDS and not (texts and kinds[name] == "text"):
            also = ", text" if texts else ""
            raise UserError(
                f"data.inputs: column {name!r} is {features[name]}; "
                f"allowed: images, numbers{also} and lists of numbers"
            )
    return Columns(tuple(inputs), target, _without(kinds, (*inputs, target)))


def _without(names: Iterable[str], used: tuple[str, ...]) -> tuple[str, ...]:
    taken = set(used)
    return tuple(name for name in names if name not in taken)


def _find_target(kinds: dict[str, Kind]) -> str:
    labels = [name for name, kind in kinds.items() if kind == "class"]
    if set(kinds.values()) == {"image"}:
        raise UserError(
            "data.target: images have no classes; allowed: two folders or more, named by them (cat/1.png)"
        )
    if len(labels) == 1:
        return labels[0]
    named = [name for name in TARGET_NAMES if name in kinds]
    if not named:
        raise UserError(f"data.target: no column is clearly the target; allowed: one of {listed(kinds)}")
    return named[0]


def _find_inputs(kinds: dict[str, Kind], *, texts: bool) -> tuple[str, ...]:
    kinds = {name: kind for name, kind in kinds.items() if not INDEX_NAME.fullmatch(name)}

    def of(*wanted: Kind) -> list[str]:
        return [name for name, kind in kinds.items() if kind in wanted]

    chosen = of("image") or of("vector")
    if len(chosen) > 1:
        raise UserError(f"data.inputs: several columns could be the input; allowed: some of {listed(chosen)}")
    chosen = chosen or (of("number", "text") if texts else of("number"))
    if not chosen:
        raise no_inputs(listed(kinds))
    return tuple(chosen)


def no_inputs(others: str) -> UserError:
    """The error of a data set in which no column beside the target can be the input."""
    return UserError(
        f"data.inputs: no column beside the target can be the input ({others or 'there is none'}); "
        "allowed: images, numbers and lists of numbers"
    )


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names as text, the first ``most`` of them; in quotes where they begin or end with a space."""
    names = [name if name == name.strip() else repr(name) for name in names]
    return ", ".join(names[:most]) + (f", … ({len(names):,})" if len(names) > most else "")
