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

Kind = Literal["image", "class", "vector", "number", "text", "other"]


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
    return "other"


def find_columns(features: dict[str, Any], inputs: list[str] | None, target: str | None) -> Columns:
    """The named columns if names are given, else columns chosen by their features.

    Target: the only class-label column, else the first column called label, labels, target, y or class.
    Inputs: the image column, else the list column, else all numeric columns except the target and an index
    written by pandas.

    Raises:
        UserError: A named column is missing or unusable, or the choice is ambiguous.
    """
    kinds = {name: kind_of(feature) for name, feature in features.items()}
    if target is None:
        named = set(inputs or ())
        target = _find_target({name: kind for name, kind in kinds.items() if name not in named})
    elif target not in kinds:
        raise UserError(f"data.target: no column {target!r}; allowed: {listed(kinds)}")
    if kinds[target] in ("image", "other"):
        raise UserError(f"data.target: column {target!r} is {features[target]}; allowed: classes and numbers")
    if inputs is None:
        found = _find_inputs({name: kind for name, kind in kinds.items() if name != target})
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
        if kinds[name] not in INPUT_KINDS:
            raise UserError(
                f"data.inputs: column {name!r} is {features[name]}; "
                "allowed: images, numbers and lists of numbers"
            )
    return Columns(tuple(inputs), target, _without(kinds, (*inputs, target)))


def _without(names: Iterable[str], used: tuple[str, ...]) -> tuple[str, ...]:
    taken = set(used)
    return tuple(name for name in names if name not in taken)


def _find_target(kinds: dict[str, Kind]) -> str:
    labels = [name for name, kind in kinds.items() if kind == "class"]
    if len(labels) == 1:
        return labels[0]
    named = [name for name in TARGET_NAMES if name in kinds]
    if not named:
        raise UserError(f"data.target: no column is clearly the target; allowed: one of {listed(kinds)}")
    return named[0]


def _find_inputs(kinds: dict[str, Kind]) -> tuple[str, ...]:
    found: dict[Kind, list[str]] = {"image": [], "vector": [], "number": []}
    for name, kind in kinds.items():
        if kind in found and not INDEX_NAME.fullmatch(name):
            found[kind].append(name)
    chosen = found["image"] or found["vector"]
    if len(chosen) > 1:
        raise UserError(f"data.inputs: several columns could be the input; allowed: some of {listed(chosen)}")
    chosen = chosen or found["number"]
    if not chosen:
        others = listed(kinds) or "there is none"
        raise UserError(
            f"data.inputs: no column beside the target can be the input ({others}); "
            "allowed: images, numbers and lists of numbers"
        )
    return tuple(chosen)


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names as text, the first ``most`` of them."""
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names):,})" if len(names) > most else "")
