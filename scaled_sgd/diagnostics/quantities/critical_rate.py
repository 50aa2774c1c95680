"""The rate at which the loss along the coming step no longer falls (arXiv 2601.16979)."""

import math
from typing import Any, Protocol

from scaled_sgd.diagnostics.algorithms.crossing import crossing
from scaled_sgd.diagnostics.moved import loss_of_rate
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.quantities.state import Stateless
from scaled_sgd.diagnostics.taylor import TaylorCoefficients

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
        predicted = predicted_rate(terms)
        loss = loss_of_rate(batch, taken.along(batch))
        before = loss(0.0)
        first = predicted or taken.rate or 1.0
        found = crossing(lambda rate: loss(rate) - before, first, tolerance=self._tolerance)
        if found is None:
            context.say("critical_rate: null where the loss falls along the step as far as numbers go")
        rate = None if found is None else found / unit
        return {
            "critical_rate": rate,
            "critical_sharpness": None if rate is None else 2 / rate,
            "critical_edge_ratio": None if rate is None else taken.lr / rate,
            "predicted_critical_rate": None if predicted is None else predicted / unit,
        }


def predicted_rate(terms: TaylorCoefficients) -> float | None:
    """The smallest η > 0 with c1 + c2 η + c3 η² = 0, for c1 < 0; None if there is none."""
    assert terms.c2 is not None
    assert terms.c3 is not None
    c, b, a = float(terms.c1), float(terms.c2), float(terms.c3)
    square = b * b - 4 * a * c
    if square < 0 or (a <= 0 and b <= 0):
        return None
    # The stable form of the root that tends to −c/b as a tends to 0.
    rate = -2 * c / (b + math.sqrt(square))
    return rate if 0 < rate < math.inf else None
