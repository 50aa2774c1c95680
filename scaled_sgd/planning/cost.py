"""What a strategy costs a process."""

from collections.abc import Mapping
from dataclasses import dataclass

from scaled_sgd.planning.ledger import Ledger, total
from scaled_sgd.planning.traffic import Traffic

WEIGHTS, GRADIENTS, MOMENTUM, MASTERS = "weights", "gradients", "momentum", "masters"


@dataclass(frozen=True)
class Cost:
    """Memory and traffic of one process and the time of a step.

    Attributes:
        strategy: its name; ``+fused`` where ``optim.update`` is ``fused``.
        held: bytes between steps, by part.
        peak: bytes at the worst moment of a step, by part.
        moment: what was going on then.
        traffic: bytes sent in a step.
        multiplying: seconds of matrix products in a step.
        seconds: of a step, products and traffic at the same time where the strategy overlaps them.
        factors: for each layer, whether factors move instead of gradients; empty where none do.
    """

    strategy: str
    held: Mapping[str, int]
    peak: Mapping[str, int]
    moment: str
    traffic: Traffic
    multiplying: float
    seconds: float
    factors: tuple[bool, ...] = ()

    @property
    def held_bytes(self) -> int:
        """Σ over the parts."""
        return total(self.held)

    @property
    def peak_bytes(self) -> int:
        """Σ over the parts."""
        return total(self.peak)


def cost(
    strategy: str,
    ledger: Ledger,
    traffic: Traffic,
    *,
    multiplying: float,
    seconds: float,
    factors: tuple[bool, ...] = (),
) -> Cost:
    """A cost from the account of a step that has ended."""
    held = {part: count for part, count in ledger.now.items() if count}
    peak = {part: count for part, count in ledger.peak.items() if count}
    return Cost(strategy, held, peak, ledger.moment, traffic, multiplying, seconds, factors)
