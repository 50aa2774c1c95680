"""Bytes by part while a step goes on, and what they were at the worst moment."""

from collections.abc import Mapping


class Ledger:
    """What a process holds, by named part.

    Attributes:
        now: bytes of each part.
        peak: ``now`` when it was most.
        moment: what was going on then.
    """

    def __init__(self) -> None:
        self.now: dict[str, int] = {}
        self.peak: dict[str, int] = {}
        self.moment = ""
        self._total = self._most = 0
        self._doing = ""

    def doing(self, moment: str) -> None:
        """Say what goes on from here."""
        self._doing = moment

    def take(self, part: str, count: int) -> None:
        """Hold ``count`` bytes more of ``part``."""
        self.now[part] = self.now.get(part, 0) + count
        self._total += count
        if self._total > self._most:
            self._most, self.moment, self.peak = self._total, self._doing, dict(self.now)

    def give(self, part: str, count: int) -> None:
        """Give ``count`` bytes of ``part`` back.

        Raises:
            ValueError: there are not so many, so that the account of a strategy is wrong.
        """
        left = self.now.get(part, 0) - count
        if left < 0:
            raise ValueError(f"{part}: {count} bytes given back of {self.now.get(part, 0)}")
        self.now[part] = left
        self._total -= count

    def move(self, part: str, other: str, count: int) -> None:
        """Call ``count`` bytes of ``part`` by another name."""
        self.give(part, count)
        self.take(other, count)

    def pass_through(self, part: str, count: int) -> None:
        """Hold ``count`` bytes for a moment."""
        self.take(part, count)
        self.give(part, count)


def total(parts: Mapping[str, int]) -> int:
    """Σ over the parts."""
    return sum(parts.values())
