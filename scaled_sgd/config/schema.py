"""Configuration keys with their types, and values as plain data."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from scaled_sgd.config.sections import Config


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, as ``config.yaml`` holds them."""
    plain: dict[str, Any] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            value = as_dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        plain[entry.name] = value
    return plain


@cache
def key_types(schema: type = Config, prefix: str = "") -> Mapping[str, Any]:
    """Every dotted configuration key with its type."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            types |= key_types(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            types[f"{prefix}{name}"] = hint
    return MappingProxyType(types)


def fits(hint: Any, value: object) -> bool:
    """Whether a plain value is of a configuration type as it stands; False may also mean: look closer."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(fits(argument, value) for argument in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return hint in (int, bool, str, type(None)) and type(value) is hint


def describe(hint: Any) -> str:
    """What a configuration type allows, in words."""
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if hint in names:
        return names[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is list:
        return "a list such as [a, b]"
    if origin is tuple:
        return f"a list of {len(arguments)} numbers"
    return str(hint)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one level of dotted keys: ``scales.0``, ``taylor.c1``."""
    level: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            level |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value:
            level |= flat({str(index): inner for index, inner in enumerate(value)}, f"{prefix}{key}.")
        else:
            level[f"{prefix}{key}"] = value
    return level
