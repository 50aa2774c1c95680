"""Keys of earlier versions: what they are called now, and what a stored configuration without a key means."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaled_sgd.config.keys import KEYS
from scaled_sgd.config.values import allowed, read, shown
from scaled_sgd.core.errors import UserError


@dataclass(frozen=True)
class Renamed:
    """What became of a key: its new name, the type it had and what its values are called now."""

    name: str
    hint: Any
    values: Mapping[Any, Any]


RENAMED: Mapping[str, Renamed] = {
    "optim.fused_update": Renamed("optim.update", bool, {True: "fused", False: "autograd"})
}
ABSENT: Mapping[str, Any] = {
    "optim.update": "autograd",
    "optim.optimizer": "sgd",
    "run.plugins": [],
    "diagnostics.quantities": [],
}
"""What the versions before a key did. A key that is not here means its default."""

_said: set[str] = set()


def renamed(name: str, value: Any, *, say: bool = True) -> tuple[str, Any]:
    """A dotted key and its value as they are called now; a line about it, once a process.

    A list is one of values, as studies have it.

    Raises:
        UserError: the key never had such a value.
    """
    if name not in RENAMED:
        return name, value
    old = RENAMED[name]
    try:
        new = [old.values[read(old.hint, each)] for each in (value if isinstance(value, list) else [value])]
    except TypeError:
        raise UserError(
            f"{name}: {shown(value)} does not fit; allowed: {allowed(old.hint)}; it is now {old.name}"
        ) from None
    if say and name not in _said:
        _said.add(name)
        print(f"{name}: it is now {old.name}, read as {new[0]}", file=sys.stderr, flush=True)
    return old.name, new if isinstance(value, list) else new[0]


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that a run stored, nested, as this version has it: dotted, with every key.

    Lists stay whole. Keys of other versions stay as they are.
    """
    found = {key.name: ABSENT.get(key.name, key.default) for key in KEYS.values()}
    for name, value in _leaves(stored).items():
        new, meant = renamed(name, value, say=False)
        found[new] = meant
    return found


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    level: dict[str, Any] = {}
    for key, value in values.items():
        inner = _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        level |= inner
    return level
