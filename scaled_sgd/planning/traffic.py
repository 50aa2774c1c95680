"""Traffic and time of collectives, by rings (ours: counts of textbook algorithms).

A ring passes through the processes of one machine before the next machine, so in each machine the bytes of
one process cross to another machine; with one ring per process, all processes share that evenly. Ring and
hierarchical algorithms send the same.
"""

import math
from dataclasses import dataclass

from scaled_sgd.planning.hardware import Group, Hardware


@dataclass(frozen=True)
class Traffic:
    """Bytes that a process sends in a step, averaged over the processes.

    Attributes:
        inside: bytes within its machine.
        across: bytes to other machines.
        collectives: number of collectives.
        seconds: their total time, one after another.
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
        """``count`` times this traffic."""
        return Traffic(
            self.inside * count, self.across * count, self.collectives * count, self.seconds * count
        )


def all_gather(total: float, group: Group, hardware: Hardware) -> Traffic:
    """All-gather of ``total`` bytes in even parts: each process sends (g − 1)/g of them."""
    return _ring(total, group, hardware, passes=1)


def reduce_scatter(total: float, group: Group, hardware: Hardware) -> Traffic:
    """Reduce-scatter of ``total`` bytes: each process sends (g − 1)/g of them; with gloo twice that."""
    return _ring(total, group, hardware, passes=2 if hardware.gloo else 1)


def all_reduce(total: float, group: Group, hardware: Hardware) -> Traffic:
    """All-reduce of ``total`` bytes: each process sends 2 (g − 1)/g of them."""
    return _ring(total, group, hardware, passes=2)


def _ring(total: float, group: Group, hardware: Hardware, *, passes: int) -> Traffic:
    if group.size == 1:
        return Traffic()
    sent = passes * (group.size - 1) / group.size * total
    across = sent / group.neighbours if group.size > group.neighbours else 0.0
    inside = sent - across
    # Libraries use trees for short messages, so that latency grows with the logarithm.
    waiting = passes * math.ceil(math.log2(group.size)) * hardware.latency
    return Traffic(inside, across, 1, waiting + max(inside / hardware.inside, across / hardware.across))
