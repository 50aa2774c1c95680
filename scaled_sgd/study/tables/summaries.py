"""Checks the summary of a run, which may come from elsewhere, before it becomes a row of a table."""

from collections.abc import Callable, Mapping
from typing import Any

from scaled_sgd.core.text import escaped

_LARGEST = 2**53
"""Integers up to this one are exact in float64."""


def checked_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with texts on one line.

    Raises:
        ValueError: a figure has another type than every run's, or is too large, or has a name of the plan's.
    """
    for name in summary:
        if name.partition(".")[0] in ("id", "config"):
            raise ValueError(f"summary.json has the key {name!r}")
    for name, test in _TYPES.items():
        value = summary.get(name)
        if value is not None and not test(value):
            raise ValueError(f"summary.json has {_brief(value)} as {name}")
    return {escaped(name): _on_one_line(name, value) for name, value in summary.items()}


def is_count(value: object) -> bool:
    """Whether this is an integer from 0 to 2⁵³."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _on_one_line(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"summary.json has {_brief(value)} as {name}")
    if isinstance(value, Mapping):
        return {escaped(key): _on_one_line(name, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_on_one_line(name, inner) for inner in value]
    return value


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("steps", "step", "layer", "parameters"), is_count),
    **dict.fromkeys(
        ("initial_loss", "max_loss", "train_loss", "eval_loss", "accuracy", "seconds"), _is_number
    ),
    **dict.fromkeys(("git_revision", "device"), lambda value: isinstance(value, str)),
    "widths": lambda value: isinstance(value, list) and all(map(is_count, value)),
    "versions": lambda value: (
        isinstance(value, Mapping) and all(one is None or isinstance(one, str) for one in value.values())
    ),
}
