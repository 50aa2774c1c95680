"""Checks number arguments of public functions; each refuses in one line."""

import math
from numbers import Real

from scaled_sgd.core.errors import UserError


def check_integer(name: str, value: object, *, least: int = 1, most: int | None = None) -> None:
    """Refuse anything but integers from ``least`` to ``most``."""
    fits = isinstance(value, int) and not isinstance(value, bool)
    if not (fits and least <= value and (most is None or value <= most)):  # type: ignore[operator]
        upto = "" if most is None else f" to {most}"
        raise UserError(f"{name}: {value!r} is not usable; allowed: integers from {least}{upto}")


def check_number(name: str, value: object, *, below: float = math.inf, positive: bool = False) -> None:
    """Refuse anything but finite numbers from 0, or above 0 if ``positive``, to below ``below``."""
    usable = not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) < below
    if not usable or (positive and value == 0):
        least = "above 0" if positive else "from 0"
        allowed = f"finite numbers {least}" if below == math.inf else f"numbers {least} to below {below:g}"
        raise UserError(f"{name}: {value!r} is not usable; allowed: {allowed}")
