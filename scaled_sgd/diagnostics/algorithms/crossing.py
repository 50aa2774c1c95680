"""The step at which a function is back at its first value, by doubling and a bracketed secant rule."""

import math
from collections.abc import Callable

_DOUBLINGS = 60


def crossing(rise: Callable[[float], float], first: float, *, tolerance: float = 1e-3) -> float | None:
    """A rate at which ``rise`` turns from below 0 to at least 0, to a relative ``tolerance``.

    Brackets by doubling or halving from ``first``, then by the Illinois rule on rise(η)/η. The smallest such
    rate unless ``rise`` turns twice between neighbouring powers of two. What is not finite counts as above 0.

    Args:
        rise: L(η) − L(0).
        first: where to begin, above 0.
        tolerance: of the bracket, relative.

    Returns:
        The rate, or None if 60 doublings or halvings of ``first`` do not bracket one.
    """

    def slope(rate: float) -> float:
        value = rise(rate) / rate
        return value if math.isfinite(value) else math.inf

    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None
    rate = first
    for _ in range(_DOUBLINGS):
        found = slope(rate)
        if found < 0:
            low, rate = (rate, found), 2 * rate
        else:
            high, rate = (rate, found), rate / 2
        if low is not None and high is not None:
            return _within(slope, low, high, tolerance)
    return None


def _within(
    slope: Callable[[float], float], low: tuple[float, float], high: tuple[float, float], tolerance: float
) -> float:
    """The zero of ``slope`` between two points (rate, value) of different signs."""
    (a, below), (b, above) = low, high
    side = 0
    while b - a > tolerance * a:
        middle = (a * above - b * below) / (above - below) if above < math.inf else math.nan
        if not a < middle < b:
            middle = (a + b) / 2
        if not a < middle < b:
            break
        found = slope(middle)
        # An end that stays twice counts half, so that both ends close in.
        if found < 0:
            a, below, above = middle, found, above / 2 if side < 0 else above
            side = -1
        else:
            b, above, below = middle, found, below / 2 if side > 0 else below
            side = 1
        if found == 0:
            return middle
    return (a + b) / 2
