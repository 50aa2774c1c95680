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


def check_number(name: str, value: object, *, below: float = math.inf) -> None:
    """Refuse anything but finite numbers from 0 to below ``below``."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < below:
        allowed = "finite numbers from 0" if below == math.inf else f"numbers from 0 to below {below:g}"
        raise UserError(f"{name}: {value!r} is not usable; allowed: {allowed}")
