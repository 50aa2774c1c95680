"""What collectives send and how long they take, by rings (ours: counts of textbook algorithms).

A ring passes through the processes of one machine before it goes to the next, so of the bytes that everyone
sends, one process's in each machine cross over; with a ring for each of them every process has its share of
that. Ring and hierarchical algorithms send the same.
"""

import math
from dataclasses import dataclass

from scaled_sgd.planning.hardware import Group, Hardware


@dataclass(frozen=True)
class Traffic:
    """What a process sends in a step, averaged over the processes.

    Attributes:
        inside: bytes to others on its machine.
        across: bytes to other machines.
        collectives: number of them.
        seconds: that they take one after another.
    """

    inside: float = 0.0
    across: float = 0.0
    collectives: int = 0
    seconds: float = 0.0

    @property
    def sent(self) -> float:
        """All bytes."""
        return self.inside + self.across

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.inside + other.inside,
            self.across + other.across,
            self.collectives + other.collectives,
            self.seconds + other.seconds,
        )

    def times(self, count: int) -> "Traffic":
        """As much ``count`` times."""
        return Traffic(
            self.inside * count, self.across * count, self.collectives * count, self.seconds * count
        )


def all_gather(total: float, group: Group, hardware: Hardware) -> Traffic:
    """Everyone gets the ``total`` bytes of which each has an even part: sends (g − 1)/g of them."""
    return _ring(total, group, hardware, passes=1)


def reduce_scatter(total: float, group: Group, hardware: Hardware) -> Traffic:
    """Everyone gets an even part of the sum of ``total`` bytes: sends (g − 1)/g of them; gloo twice that."""
    return _ring(total, group, hardware, passes=2 if hardware.gloo else 1)


def all_reduce(total: float, group: Group, hardware: Hardware) -> Traffic:
    """Everyone gets the sum of ``total`` bytes: sends 2 (g − 1)/g of them."""
    return _ring(total, group, hardware, passes=2)


def _ring(total: float, group: Group, hardware: Hardware, *, passes: int) -> Traffic:
    if group.size == 1:
        return Traffic()
    sent = passes * (group.size - 1) / group.size * total
    across = sent / group.neighbours if group.size > group.neighbours else 0.0
    inside = sent - across
    # Libraries take trees where messages are short, so that latency grows with the logarithm.
    waiting = passes * math.ceil(math.log2(group.size)) * hardware.latency
    return Traffic(inside, across, 1, waiting + max(inside / hardware.inside, across / hardware.across))
