"""Formats and parses bytes, seconds and operations."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from scaled_sgd.core.errors import UserError

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_PREFIXES = {"": 1.0, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


@dataclass(frozen=True)
class Units:
    """Units by name, ``""`` for a plain number, and the allowed values as text."""

    units: Mapping[str, float]
    allowed: str


SIZES = Units(
    {unit: 1024.0**power for power, unit in enumerate(_BINARY)}
    | {"": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12},
    "sizes such as 80GiB or 25GB",
)
DURATIONS = Units({"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}, "times such as 10us or 0.1ms")
OPERATIONS = Units(_PREFIXES, "operations a second such as 60T or 5e10")


def size(count: float) -> str:
    """Bytes in a binary unit, with three digits."""
    power = 0
    while count >= 1000 and power < len(_BINARY) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.3g} {_BINARY[power]}"


def speed(rate: float) -> str:
    """Bytes per second in a decimal unit, with three digits."""
    return f"{_decimal(rate)}B/s"


def duration(seconds: float) -> str:
    """Seconds in a suitable unit, with three digits."""
    for name, unit in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 1e-6:.3g} µs"


def operations(rate: float) -> str:
    """Operations per second in a decimal unit, with three digits."""
    return f"{_decimal(rate)}FLOP/s"


def parse(key: str, text: str, units: Units) -> float:
    """A positive quantity from text such as ``80GiB``.

    Raises:
        UserError: the text is not a quantity, or it is 0.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ]*)\s*", text)
    unit = units.units.get(found[2]) if found else None
    value = float(found[1]) * unit if found and unit else 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{key}: {text!r} is not usable; allowed: {units.allowed}")
    return value


def _decimal(rate: float) -> str:
    prefix = next((name for name in ("P", "T", "G", "M") if rate >= _PREFIXES[name]), "")
    return f"{rate / _PREFIXES[prefix]:.3g} {prefix}"
