"""Bytes, seconds and operations for people, both ways."""

import re

from scaled_sgd.core.errors import UserError

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_BYTES = {unit: 1024.0**power for power, unit in enumerate(_BINARY)}
_BYTES |= {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_PREFIXES = {"": 1.0, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def size(count: float) -> str:
    """Bytes in a binary unit, in three digits."""
    power = 0
    while count >= 1000 and power < len(_BINARY) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.3g} {_BINARY[power]}"


def speed(rate: float) -> str:
    """Bytes a second in a decimal unit, in three digits."""
    return f"{_decimal(rate)}B/s"


def duration(seconds: float) -> str:
    """Seconds in a unit of their size, in three digits."""
    for name, unit in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 1e-6:.3g} µs"


def operations(rate: float) -> str:
    """Operations a second in a decimal unit, in three digits."""
    return f"{_decimal(rate)}FLOP/s"


def parse_size(key: str, text: str) -> float:
    """Bytes from text such as ``80GiB``; a number alone counts bytes.

    Raises:
        UserError: it is none, or 0.
    """
    return _parse(key, text, _BYTES | {"": 1.0}, "sizes such as 80GiB or 25GB")


def parse_duration(key: str, text: str) -> float:
    """Seconds from text such as ``10us``; a number alone counts seconds.

    Raises:
        UserError: it is none, or 0.
    """
    return _parse(key, text, _SECONDS | {"": 1.0}, "times such as 10us or 0.1ms")


def parse_operations(key: str, text: str) -> float:
    """Operations a second from text such as ``60T``.

    Raises:
        UserError: it is none, or 0.
    """
    return _parse(key, text, _PREFIXES, "operations a second such as 60T or 5e10")


def _decimal(rate: float) -> str:
    prefix = next((name for name in ("P", "T", "G", "M") if rate >= _PREFIXES[name]), "")
    return f"{rate / _PREFIXES[prefix]:.3g} {prefix}"


def _parse(key: str, text: str, units: dict[str, float], allowed: str) -> float:
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ]*)\s*", text)
    unit = units.get(found[2]) if found else None
    value = float(found[1]) * unit if found and unit else 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{key}: {text!r} is not usable; allowed: {allowed}")
    return value
