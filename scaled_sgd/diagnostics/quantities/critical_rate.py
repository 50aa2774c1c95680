"""The rate at which the loss along the coming step no longer falls (arXiv 2601.16979)."""

from typing import Any, Protocol

from scaled_sgd.diagnostics.critical import critical_along
from scaled_sgd.diagnostics.moved import loss_of_rate
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.quantities.state import Stateless

_COLUMNS = ("critical_rate", "critical_sharpness", "critical_edge_ratio", "predicted_critical_rate")


class CriticalSettings(Protocol):
    """Keys of the ``diagnostics.`` section."""

    tolerance: float


class CriticalRate(Stateless):
    """η_c where the minibatch loss after a step of rate η_c is that before, 2/η_c and η/η_c.

    By evaluating the loss, across kinks and beyond the reach of Taylor terms, and from c1..c3. The smallest
    such rate unless the loss crosses its first value twice between neighbouring doublings of a trial rate.
    """

    def __init__(self, config: CriticalSettings) -> None:
        self._tolerance = config.tolerance

    def measure(self, context: Context) -> dict[str, Any]:
        """``critical_rate`` and its related columns."""
        taken, batch = context.taken, context.minibatch
        empty = dict.fromkeys(_COLUMNS)
        if not taken.known:
            context.say("critical_rate: null, for the optimizer does not step by −ηv")
            return empty
        terms = context.terms
        # Rates along u count in η, that of c U in η c.
        unit = taken.factor if taken.is_along_direction else 1.0
        if not float(terms.c1) < 0 or not unit:
            context.say("critical_rate: null where the loss does not fall at first along the step")
            return empty
        loss = loss_of_rate(batch, taken.along(batch))
        found = critical_along(terms, loss, tolerance=self._tolerance, first=taken.rate)
        if found.rate is None:
            context.say("critical_rate: null where the loss falls along the step as far as numbers go")
        rate = None if found.rate is None else found.rate / unit
        return {
            "critical_rate": rate,
            "critical_sharpness": None if rate is None else 2 / rate,
            "critical_edge_ratio": None if rate is None else taken.lr / rate,
            "predicted_critical_rate": None if found.predicted is None else found.predicted / unit,
        }
