"""Registries of named entries: the one place to add a rule, a parameterization or a diagnostic.

Importing a registry does not import torch, nor the code of entries that are given as text.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any, Generic, TypeVar

from scaled_sgd.core.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name, in the order in which they were added.

    Args:
        key: the key that messages about an unknown name start with, such as ``scaling.rule``.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register ``entry``; returns it.

        Raises:
            UserError: the name is taken.
        """
        if name in self._entries:
            raise UserError(f"{self.key}: {name!r} is registered already; allowed: another name")
        self._entries[name] = entry
        return entry

    def remove(self, name: str) -> None:
        """Remove an entry, for tests of plugins."""
        del self._entries[name]

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(self._entries)

    @property
    def entries(self) -> tuple[T, ...]:
        """All entries."""
        return tuple(self._entries.values())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __getitem__(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            UserError: there is no such entry.
        """
        if name not in self:
            raise UserError(f"{self.key}: {name!r} is unknown; allowed: {', '.join(self._entries)}")
        return self._entries[name]


def load(target: Any) -> Any:
    """Import what the text ``"package.module:name"`` names; return anything else unchanged."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
