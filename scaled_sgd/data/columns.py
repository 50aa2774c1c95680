"""Finds the input columns and the target column from the features of a data set."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from scaled_sgd.core.errors import UserError

TARGET_NAMES = ("label", "labels", "target", "y", "class")
INDEX_NAMES = ("__index_level_0__", "Unnamed: 0")  # row numbers that pandas writes as a column
INPUT_KINDS = ("image", "vector", "number")

Kind = Literal["image", "class", "vector", "number", "text", "other"]


@dataclass(frozen=True)
class Columns:
    """Names of the input columns, in order, of the target column, and of unused columns."""

    inputs: tuple[str, ...]
    target: str
    left_out: tuple[str, ...] = ()


def kind_of(feature: Any) -> Kind:
    """The kind of a `datasets` feature; a vector is a list or array of numbers of any rank."""
    import pyarrow.types as arrow
    from datasets import ClassLabel, Features, Image

    if isinstance(feature, Image):
        return "image"
    if isinstance(feature, ClassLabel):
        return "class"
    type_ = Features({"_": feature}).arrow_schema.field(0).type
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
        target = _find_target({name: kind for name, kind in kinds.items() if name not in (inputs or ())})
    elif target not in kinds:
        raise UserError(f"data.target: no column {target!r}; allowed: {_listed(kinds)}")
    if kinds[target] in ("image", "other"):
        raise UserError(f"data.target: column {target!r} is {features[target]}; allowed: classes and numbers")
    if inputs is None:
        found = _find_inputs({name: kind for name, kind in kinds.items() if name != target})
        return Columns(found, target, tuple(name for name in kinds if name not in (*found, target)))
    if not inputs:
        raise UserError(f"data.inputs: the list is empty; allowed: {_listed(kinds)}")
    for name in inputs:
        if name not in kinds:
            raise UserError(f"data.inputs: no column {name!r}; allowed: {_listed(kinds)}")
        if inputs.count(name) > 1:
            raise UserError(f"data.inputs: column {name!r} is there twice; allowed: each column once")
        if name == target:
            raise UserError(f"data.inputs: column {name!r} is the target; allowed: other columns")
        if kinds[name] not in INPUT_KINDS:
            raise UserError(
                f"data.inputs: column {name!r} is {features[name]}; "
                "allowed: images, numbers and lists of numbers"
            )
    return Columns(tuple(inputs), target, tuple(name for name in kinds if name not in (*inputs, target)))


def _find_target(kinds: dict[str, Kind]) -> str:
    labels = [name for name, kind in kinds.items() if kind == "class"]
    if len(labels) == 1:
        return labels[0]
    named = [name for name in TARGET_NAMES if name in kinds]
    if not named:
        raise UserError(f"data.target: no column is clearly the target; allowed: one of {_listed(kinds)}")
    return named[0]


def _find_inputs(kinds: dict[str, Kind]) -> tuple[str, ...]:
    found: dict[Kind, list[str]] = {"image": [], "vector": [], "number": []}
    for name, kind in kinds.items():
        if kind in found and name not in INDEX_NAMES:
            found[kind].append(name)
    chosen = found["image"] or found["vector"]
    if len(chosen) > 1:
        raise UserError(
            f"data.inputs: several columns could be the input; allowed: some of {_listed(chosen)}"
        )
    chosen = chosen or found["number"]
    if not chosen:
        others = _listed(kinds) or "there is none"
        raise UserError(
            f"data.inputs: no column beside the target can be the input ({others}); "
            "allowed: images, numbers and lists of numbers"
        )
    return tuple(chosen)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
