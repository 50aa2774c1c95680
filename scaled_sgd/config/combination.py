"""The values of one key that another permits, as a check and as rows of the documentation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from scaled_sgd.config.keys import KEYS, value_of
from scaled_sgd.config.sections import Config
from scaled_sgd.config.values import Limit, choices, shown
from scaled_sgd.parallel.strategies import STRATEGIES, Capabilities
from scaled_sgd.steps.rules import RULES, Rule

Allowed = tuple[Any, ...] | Limit | None
"""Values, a limit, or None for whatever the key's type allows."""


@dataclass(frozen=True)
class Combination:
    """The values of one key that the value of another key permits.

    Attributes:
        key: the limited key.
        given: the limiting key.
        allowed: permitted values of ``key`` for a value of ``given``.
        reason: why.
        also: a third key, and whether this holds for a value of it; None: always.
    """

    key: str
    given: str
    allowed: Callable[[Any], Allowed]
    reason: str
    also: tuple[str, Callable[[Any], bool]] | None = None

    def violation(self, config: Config) -> str | None:
        """One line about what is wrong with a configuration."""
        if self.also is not None and not self.also[1](value_of(config, self.also[0])):
            return None
        value, given = value_of(config, self.key), value_of(config, self.given)
        allowed = self.allowed(given)
        if allowed is None or (value in allowed if isinstance(allowed, tuple) else allowed.holds(value)):
            return None
        return (
            f"{self.key}: {shown(value)} is not usable; allowed: {self._words(allowed)} with "
            f"{self.given} {_bare(given)}{self._third()} ({self.reason})"
        )

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """For each limit: the key, its permitted values, the values of the other key, and the reason.

        Null, one number and the default stand for all numbers and texts.
        """
        own = choices(KEYS[self.key].hint)
        limited: dict[str, list[str]] = {}
        given_key = KEYS[self.given]
        for given in choices(given_key.hint) or dict.fromkeys((None, 2, given_key.default)):
            allowed = self.allowed(given)
            if allowed is not None and self._words(allowed) != self._words(own or ()):
                limited.setdefault(self._words(allowed), []).append(_bare(given))
        for words, given in limited.items():
            yield self.key, words, f"{self.given} {', '.join(given)}{self._third()}", self.reason

    def _third(self) -> str:
        if self.also is None:
            return ""
        key, holds = self.also
        values = choices(KEYS[key].hint) or ()
        return f" and {key} {', '.join(_bare(value) for value in values if holds(value))}"

    def _words(self, allowed: tuple[Any, ...] | Limit) -> str:
        if isinstance(allowed, tuple):
            return ", ".join(map(_bare, allowed))
        return allowed.words(int if isinstance(KEYS[self.key].default, int) else float)


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def by_strategy(allowed: Callable[[Capabilities], Allowed]) -> Callable[[str], Allowed]:
    """What a strategy's capabilities permit; ``auto`` permits all."""
    return lambda strategy: None if strategy == "auto" else allowed(STRATEGIES[strategy])


def by_rule(allowed: Callable[[Rule], Allowed]) -> Callable[[str], Allowed]:
    """What a rule permits; ``auto`` is resolved before."""
    return lambda rule: None if rule == "auto" else allowed(RULES[rule])


def when(value: Any, allowed: Allowed) -> Callable[[Any], Allowed]:
    """``allowed`` where the other key is ``value``."""
    return lambda given: allowed if given == value else None


def unless(value: Any, allowed: Allowed) -> Callable[[Any], Allowed]:
    """``allowed`` where the other key is not ``value``."""
    return lambda given: allowed if given != value else None
