"""Formats numbers, lists and values of axes as text."""

import math
import re
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

from scaled_sgd.core.parameterization import PARAMETERIZATIONS

_NAMES = {
    ("loss", "mse"): "squared error",
    ("loss", "cross_entropy"): "cross-entropy",
    ("matching", "equal_base_width"): "equal base width",
    ("matching", "equal_parameters"): "equal parameters",
    **{("model.parameterization", entry.name): entry.label for entry in PARAMETERIZATIONS.entries},
}
_SYMBOLS = {
    "model.base_width": "m",
    "model.depth": "l",
    "model.width_exponent": "r",
    "model.output_scale": "γ",
    "optim.lr": "η",
}


def number(value: Any, digits: int = 3) -> str:
    """A number with ``digits`` significant digits; ∞ for an overflowed loss, – for a missing number."""
    if value is None or value != value:
        return "–"
    value = float(value)
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        decimals = 0 if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    return "0" if text in ("-0", "") else text.replace("-", "−")


def span(values: Iterable[float]) -> str:
    """Smallest to largest value, or the only value."""
    found = sorted(values)
    low, high = number(found[0]), number(found[-1])
    return low if low == high else f"{low} to {high}"


def times(ratio: float) -> str:
    """A factor: ``1.05×``."""
    return f"{number(ratio)}×"


def listing(items: Sequence[str], *, most: int = 5) -> str:
    """``a, b and c``; items beyond ``most`` are only counted."""
    shown = list(items[:most])
    if len(items) > most:
        shown = [*items[: most - 1], f"{len(items) - most + 1} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def share(part: float) -> str:
    """A fraction in percent; 0 % and 100 % only if it is exactly 0 or 1."""
    percent = round(100 * part)
    return f"{max(1, min(99, percent)) if 0 < part < 1 else percent} %"


def count(how_many: int, thing: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{how_many:,} {thing}" + ("" if how_many == 1 else "s")


def spread(seeds: int) -> str:
    """What lines over seeds show: ``median and range over seeds``, or ``one seed``."""
    return "one seed" if seeds == 1 else "median and range over seeds"


def value_label(axis: str, value: Any) -> str:
    """A value of an axis: ``m = 8``, ``νP``, ``momentum 0.9``; a named choice is its name."""
    name = axis_name(axis)
    if value is None:
        return f"{name} none"
    plain = " ".join(number(value).split()) if _is_number(value) else " ".join(str(value).split())
    if axis in _SYMBOLS:
        return f"{_SYMBOLS[axis]} = {plain}"
    if (axis, value) in _NAMES:
        return _NAMES[axis, value]
    if isinstance(value, bool):
        plain = plain.lower()
    return f"{name} {plain}" if "." in axis else plain


def axis_name(axis: str) -> str:
    """The name of an axis before a value."""
    return "warm-up steps" if axis == "optim.warmup_steps" else axis.rpartition(".")[2].replace("_", " ")


def axis_label(axis: str) -> str:
    """The name of an axis in legends and tables."""
    axis = axis.removeprefix("config.")
    named = {
        "model.base_width": "base width m",
        "model.depth": "depth l",
        "model.width_exponent": "width exponent r",
        "model.output_scale": "output scale γ",
        "optim.lr": "learning rate η",
        "optim.batch_size": "batch size B",
        "optim.momentum": "momentum μ",
    }
    return named.get(axis, axis_name(axis))


def shortened(text: str, length: int = 34) -> str:
    """Text shortened to fit a legend."""
    return text if len(text) <= length else f"{text[: length - 10]}…{text[-9:]}"


def wrapped(text: str, length: int) -> str:
    """A text on lines of so many letters, broken between the parts of a title, `` · ``, else at blanks.

    Longer words are cut.
    """
    lines: list[str] = []
    for part in text.split(" · "):
        if lines and len(lines[-1]) + 3 + len(part) <= length:
            lines[-1] += f" · {part}"
        else:
            words = " ".join(shortened(word, length) for word in part.split(" "))
            lines += wrap(words, length, break_long_words=False, break_on_hyphens=False) or [""]
    return "\n".join(lines)


def balanced(text: str, length: int) -> str:
    """A text on as few lines of so many letters as it needs, broken at blanks into lines of like length.

    A number stays with the word before it.
    """
    text = re.sub(r" (\d+)\b", "\u00a0\\1", text)
    lines = len(wrap(text, max(length, 1), break_long_words=False))
    for width in range(max(len(text) // max(lines, 1), 1), length):
        found = wrap(text, width, break_long_words=False)
        if len(found) <= lines:
            return "\n".join(found)
    return "\n".join(wrap(text, max(length, 1), break_long_words=False))


def sentence_of(parts: Sequence[tuple[str, str]], *, opening: str = "", most: int = 4) -> str | None:
    """One sentence about what each panel shows; None if there are too many panels to read."""
    if not 0 < len(parts) <= most:
        return None
    if len(parts) == 1:
        said = parts[0][1]
    elif len({said for _, said in parts}) == 1:
        said = f"{parts[0][1]} for {listing([title for title, _ in parts])}"
    else:
        said = "; ".join(f"{said} for {title}" if title else said for title, said in parts)
    said = f"{opening}{said}".rstrip(",")
    return f"{said[0].upper()}{said[1:]}."


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, str | bool)
