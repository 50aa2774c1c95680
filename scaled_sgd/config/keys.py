"""Every configuration key with type, default, help line and effect; values as plain data."""

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

from scaled_sgd.config.sections import Config, Decides, Stacked
from scaled_sgd.config.values import allowed


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        name: dotted name.
        hint: its type with its limits.
        default: its default value.
        decides: what depends on it.
        stacked: whether networks of one stack may differ in it.
    """

    name: str
    hint: Any
    default: Any
    decides: Decides
    stacked: bool

    @property
    def allowed(self) -> str:
        """The allowed values as text; plugins may add to them."""
        return allowed(self.hint)

    @property
    def help(self) -> str:
        """Its meaning, from its docstring."""
        return _docstrings()[self.name]


def _keys(section: type, prefix: str = "", inherited: Decides = Decides.WEIGHTS) -> Iterator[Key]:
    hints = get_type_hints(section, include_extras=True)
    for entry in fields(section):
        hint = hints[entry.name]
        inner = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        decides = next((mark for mark in inner if isinstance(mark, Decides)), inherited)
        if is_dataclass(inner[0]):
            SECTIONS[entry.name] = cast(type, inner[0])
            yield from _keys(cast(type, inner[0]), f"{entry.name}.", decides)
            continue
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        yield Key(f"{prefix}{entry.name}", hint, default, decides, Stacked.YES in inner)


SECTIONS: dict[str, type] = {}
"""The class of each group of keys."""
KEYS: Mapping[str, Key] = {key.name: key for key in _keys(Config)}
"""All keys by dotted name, in the order of the sections."""


@cache
def _docstrings() -> dict[str, str]:
    """The text below each attribute of each section, by key."""
    return {
        f"{prefix}{above.target.id}": " ".join(str(below.value.value).split())
        for prefix, section in (("", Config), *((f"{name}.", kind) for name, kind in SECTIONS.items()))
        for above, below in pairwise(_body(section))
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


def _body(section: type) -> list[ast.stmt]:
    (definition,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef)
    return definition.body


def value_of(config: Config, name: str) -> Any:
    """The value of a dotted key."""
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


def build(values: Mapping[str, Any]) -> Config:
    """A configuration with ``values`` (dotted) over the defaults."""
    groups: dict[str, dict[str, Any]] = {name: {} for name in ("", *SECTIONS)}
    for name, value in values.items():
        group, _, leaf = name.rpartition(".")
        groups[group][leaf] = value
    own = groups.pop("")
    return Config(**own, **{name: SECTIONS[name](**inner) for name, inner in groups.items()})


def as_dict(config: Config) -> dict[str, Any]:
    """Nested plain values, as in ``config.yaml``."""
    return nested({name: value_of(config, name) for name in KEYS})


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested groups, tuples as lists."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        group, _, leaf = name.rpartition(".")
        inner = plain.setdefault(group, {}) if group else plain
        inner[leaf] = list(value) if isinstance(value, tuple) else value
    return plain


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
