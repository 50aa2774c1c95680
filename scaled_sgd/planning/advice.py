"""Recommends one of several strategies."""

from collections.abc import Sequence
from dataclasses import dataclass

from scaled_sgd.planning.cost import Cost
from scaled_sgd.planning.hardware import Hardware
from scaled_sgd.planning.units import duration, size

SAME = 1.1
"""Times that differ by less count as equal: rates are not known more precisely."""
SHORT = 1e-3
"""Steps shorter than this, in seconds, count as equal: the overhead between operations is not predicted."""


@dataclass(frozen=True)
class Advice:
    """A recommendation.

    Attributes:
        cost: cost of the recommended strategy; None if nothing fits.
        reason: the reason, without the strategy's name.
    """

    cost: Cost | None
    reason: str


def fits(cost: Cost, hardware: Hardware) -> bool:
    """Whether the peak of a step is usable memory."""
    return cost.peak_bytes <= hardware.usable


def advise(costs: Sequence[Cost], hardware: Hardware) -> Advice:
    """The fastest strategy that fits; of equally fast ones the first, which should be the simplest.

    Of its two updates, where both are equally fast, the fused one, which ``optim.update: auto`` takes.
    """
    fitting = [cost for cost in costs if fits(cost, hardware)]
    if not fitting:
        least = min(costs, key=lambda cost: cost.peak_bytes)
        return Advice(None, f"{least.label} needs least, {size(least.peak_bytes)} of {size(hardware.memory)}")
    fastest = min(fitting, key=lambda cost: cost.seconds)
    close = [cost for cost in fitting if cost.seconds <= max(SAME * fastest.seconds, SHORT)]
    chosen = max((cost for cost in close if cost.strategy == close[0].strategy), key=lambda cost: cost.fused)
    if len(fitting) == 1:
        why = "the only one that fits"
    elif chosen.seconds > SAME * fastest.seconds:
        why = f"as good as any step under {duration(SHORT)}, and simplest"
    elif chosen is not fastest:
        why = f"within a tenth of the fastest, {fastest.label}, and simpler"
    else:
        why = "the fastest that fits" if len(fitting) < len(costs) else "the fastest"
    reason = f"{why}, {duration(chosen.seconds)} a step"
    quicker = [cost for cost in costs if cost.seconds * SAME < chosen.seconds and cost not in fitting]
    if quicker:
        best = min(quicker, key=lambda cost: cost.seconds)
        reason += (
            f"; {best.label} would take {duration(best.seconds)} but needs {size(best.peak_bytes)} "
            f"of {size(hardware.memory)}"
        )
    return Advice(chosen, reason)
