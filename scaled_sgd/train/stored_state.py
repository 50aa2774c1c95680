"""Checks the state of a checkpoint before it is used: a right checksum does not make its fields right."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from scaled_sgd.config import ModelConfig
from scaled_sgd.config.network import factored_of
from scaled_sgd.config.stored import completed
from scaled_sgd.core.errors import UserError
from scaled_sgd.train.snapshot import Progressed

_LARGEST = 2**53
_Test = Callable[[Any], bool]


def check_state(state: Mapping[str, Any], step: int) -> None:
    """Check every field that resuming reads.

    Args:
        state: what ``Saver`` stored, in this version or an earlier one.
        step: the step of the checkpoint.

    Raises:
        ValueError: the first field that is missing or wrong.
    """
    for name in ("progressed", "config", "data", "scaling"):
        _check(name, state.get(name), _is_mapping)
    progressed = state["progressed"]
    for name in progressed:
        _check(f"progressed.{name}", name, lambda key: key in _PROGRESSED)
    for name, test in _PROGRESSED.items():
        if name in progressed or name in _ALWAYS:
            _check(f"progressed.{name}", progressed.get(name), test)
    if progressed["step"] != step:
        raise ValueError(f"progressed.step is {progressed['step']}, its manifest says {step}")
    depth = _matrices(state)
    numbers = _or_none(lambda value: _is_mapping(value) and all(map(_is_number, value.values())))
    _check("scaling.rule", state["scaling"].get("rule"), _is_text)
    _check("scaling.static", state["scaling"].get("static"), _is_flag)
    _check("scaling.scales", state["scaling"].get("scales"), _or_none(_list_of(_is_number, depth)))
    _check("exchange", state.get("exchange"), _or_none(_list_of(_is_flag, depth)))
    _check("schedule", state.get("schedule"), _or_none(_is_schedule))
    _check("peak", state.get("peak"), _or_none(_is_number))
    _check("grad_scaler", state.get("grad_scaler"), numbers)
    _check("optimizer", state.get("optimizer"), numbers)


def _matrices(state: Mapping[str, Any]) -> object:
    """The number of weight matrices; factors of a rank are two."""
    known, data = completed(state["config"]), state["data"]
    if known["model.rank"] is None:
        return known["model.depth"]
    shape = {name: known[f"model.{name}"] for name in ("depth", "base_width", "width_exponent", "rank")}
    try:
        return len(factored_of(ModelConfig(**shape), data["in_features"], data["out_features"]).widths) - 1
    except (UserError, KeyError, TypeError) as error:
        raise ValueError(f"its state has no network with a rank: {error}") from error


def _check(name: str, value: object, test: _Test) -> None:
    if not test(value):
        raise ValueError(f"its state has {_brief(value)} as {name}")


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGEST)


def _is_schedule(value: object) -> bool:
    """Whether it is η, or η and what was measured last, if anything was."""
    pair: Any = value if _list_of(_or_none(_is_number), 2)(value) else [value]
    return _is_number(pair[0])


def _is_loss(value: object) -> bool:
    return _is_number(value) and not isinstance(value, bool) and not value < 0  # type: ignore[operator]


def _or_none(test: _Test) -> _Test:
    return lambda value: value is None or test(value)


def _list_of(test: _Test, length: object) -> _Test:
    return lambda value: isinstance(value, list) and len(value) == length and all(map(test, value))


_PROGRESSED: Mapping[str, _Test] = {
    "step": _is_count,
    "epoch": _is_count,
    "minibatch": _is_count,
    "samples": _is_count,
    "seconds": lambda value: _is_loss(value) and value < float("inf"),
    "first_loss": _or_none(_is_loss),
    "last_loss": _or_none(_is_loss),
    "max_loss": _or_none(_is_loss),
    "metrics_bytes": _is_count,
}
_ALWAYS = tuple(field.name for field in fields(Progressed) if field.name != "max_loss")
"""Earlier versions did not store the largest loss."""
