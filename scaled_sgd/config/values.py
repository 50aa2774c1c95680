"""Types and limits of keys: reads values by them and describes them as text.

A hint is a type used in :mod:`scaled_sgd.config.sections`: int, float, bool, str, None, a Literal, a list, a
tuple of numbers, or a union of these, each optionally Annotated with limits.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from os import PathLike, fspath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin

from scaled_sgd.core.registry import Registry

_INTEGERS = 2**63
_SWITCHES = {"yes": True, "on": True, "no": False, "off": False}
_LONG = 300
"""Most characters of a value in a message."""


class Limit(Protocol):
    """A condition on the values of one type."""

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is allowed."""
        ...

    def words(self, hint: Any) -> str:
        """The allowed values of a type as text."""
        ...


@dataclass(frozen=True)
class Within:
    """Bounds on a finite number, closed (``least``, ``most``) or open (``above``, ``below``)."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def holds(self, value: float) -> bool:
        """Whether ``value`` is between the bounds."""
        return self.least <= value <= self.most and self.above < value < self.below and math.isfinite(value)

    def words(self, hint: Any) -> str:
        """The bounds as text, such as ``integers from 1``."""
        kind = "integers" if hint is int else "numbers"
        if math.isfinite(self.above) and math.isfinite(self.below):
            return f"{kind} between {_number(self.above)} and {_number(self.below)}"
        start = f"above {_number(self.above)}" if self.above > -math.inf else f"from {_number(self.least)}"
        if self.most < math.inf:
            return f"{kind} {start} to {_number(self.most)}"
        if self.below < math.inf:
            return f"{kind} {start} to below {_number(self.below)}"
        return f"{kind} {start}" if hint is int else f"finite {kind} {start}"


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}".replace("e+0", "e").replace("e+", "e")


@dataclass(frozen=True)
class Holds:
    """Any other condition, with its description."""

    test: Callable[[Any], bool]
    says: str

    def holds(self, value: Any) -> bool:
        """Whether ``value`` passes the test."""
        return self.test(value)

    def words(self, _hint: Any) -> str:
        """The description."""
        return self.says


@dataclass(frozen=True)
class OneOf:
    """Text that names a registry entry or one of a few extra words."""

    registry: Collection[str]
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names that are allowed now; plugins may add to the registry."""
        return (*self.also, *self.registry)

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is an allowed name."""
        return value in self.also or value in self.registry

    def words(self, _hint: Any) -> str:
        """The names."""
        return ", ".join((*self.names, *filter(None, [getattr(self.registry, "words", None)])))


class MisfitError(ValueError):
    """A value of the right type is outside a limit; ``args``: the value, and the allowed values as text."""


def read(hint: Any, value: Any) -> Any:
    """Convert a plain ``value`` to ``hint``: integers become floats, lists tuples, nothing else changes.

    Raises:
        TypeError: the value has another type.
        MisfitError: the value is outside a limit.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        found = read(inner[0], value)
        for limit in inner[1:]:
            if hasattr(limit, "holds") and not limit.holds(found):
                raise MisfitError(found, limit.words(inner[0]))
        return found
    if origin in (Union, UnionType):
        return _read_one_of(inner, value)
    if origin is Literal and isinstance(value, str) and value in inner:
        return value
    if origin is list and isinstance(value, list):
        return [read(inner[0], item) for item in value]
    if origin is dict and isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: read(inner[1], item) for name, item in value.items()}
    if origin is tuple and isinstance(value, list | tuple) and len(value) == len(inner):
        return tuple(read(part, item) for part, item in zip(inner, value, strict=True))
    if hint is bool and isinstance(value, str) and value.lower() in _SWITCHES:
        return _SWITCHES[value.lower()]
    if hint is float and type(value) is int:
        return float(value) if abs(value) < _INTEGERS else math.inf
    if hint is int and type(value) is int and abs(value) >= _INTEGERS:
        raise MisfitError(value, "integers below 2**63")
    if type(value) is not hint:
        raise TypeError
    if hint is str and not _is_unicode(value):
        raise MisfitError(value, "text in UTF-8")
    return value


def _is_unicode(text: str) -> bool:
    """False for file names in another encoding, which no file of a run could hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_one_of(hints: tuple[Any, ...], value: Any) -> Any:
    for place, hint in enumerate(hints):
        try:
            return read(hint, value)
        except TypeError:
            continue
        except MisfitError as error:
            found, said = error.args
            words = [said if place == other else allowed(hints[other]) for other in range(len(hints))]
            raise MisfitError(found, ", or ".join(words)) from None
    raise TypeError


def plain(value: Any) -> Any:
    """A value from Python as YAML would have it: paths as text, numbers of NumPy as Python's."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, PathLike):
        return fspath(value)
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def takes_text(hint: Any, text: str) -> bool:
    """Whether ``text`` is a value by itself, without being parsed as YAML."""
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        return takes_text(inner[0], text)
    if get_origin(hint) in (Union, UnionType):
        return any(text in names if (names := choices(part)) else takes_text(part, text) for part in inner)
    return hint is str or (get_origin(hint) is Literal and text in inner)


def takes_none(hint: Any) -> bool:
    """Whether null is allowed."""
    return hint is NoneType or any(takes_none(part) for part in get_args(hint) if _is_union(hint, part))


def _is_union(hint: Any, part: Any) -> bool:
    return get_origin(hint) in (Union, UnionType) or (
        get_origin(hint) is Annotated and part is get_args(hint)[0]
    )


def allowed(hint: Any) -> str:
    """The values that a hint allows, as text."""
    plain = {int: "integers", float: "numbers", bool: "true, false", str: "text", NoneType: "null"}
    origin, inner = get_origin(hint), get_args(hint)
    if hint in plain:
        return plain[hint]
    if origin is Annotated:
        said = [limit.words(inner[0]) for limit in inner[1:] if hasattr(limit, "words")]
        return said[0] if said else allowed(inner[0])
    if origin is Literal:
        return ", ".join(inner)
    if origin in (Union, UnionType):
        return ", or ".join(map(allowed, inner))
    if origin is list:
        return f"a list of {allowed(inner[0])}" if inner[0] is not str else "a list such as [a, b]"
    return "a mapping such as {a: 1}" if origin is dict else f"a list of {len(inner)} numbers"


def choices(hint: Any) -> tuple[Any, ...] | None:
    """All values of a hint if it has finitely many, else None."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is bool:
        return (False, True)
    if origin is Literal:
        return inner
    if origin is Annotated:
        names = [limit.names for limit in inner[1:] if isinstance(limit, OneOf)]
        return names[0] if names else choices(inner[0])
    return None


def labels(hint: Any) -> dict[str, str]:
    """A short description of each registered choice of a hint, or of the items of its list."""
    for inner in get_args(hint):
        if isinstance(inner, OneOf) and isinstance(inner.registry, Registry):
            return {name: inner.registry[name].label for name in inner.registry}
        if found := labels(inner):
            return found
    return {}


def shown(value: Any) -> str:
    """A value as messages show it: text in quotes, anything else as in YAML; cut where it is very long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"
