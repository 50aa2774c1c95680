"""Whether a run may resume from a checkpoint of another configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

from scaled_sgd.config.keys import KEYS, flat
from scaled_sgd.config.sections import Decides
from scaled_sgd.config.stored import completed
from scaled_sgd.core.errors import UserError

_FREE = (Decides.RECORDS, Decides.NOTHING)


def changed_keys(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Key, saved value and current value of every difference that affects the weights.

    Both configurations are nested and come from this version or an earlier one.
    """
    before, after = (flat(_deciding(values)) for values in (saved, now))
    # Other data come first, as loss, columns and more follow from them.
    keys = sorted(before.keys() | after.keys(), key=lambda key: (key != "data.source", key))
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def _deciding(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in completed(values).items()
        if name not in KEYS or KEYS[name].decides not in _FREE
    }


def check_changes(saved: Mapping[str, Any], now: Mapping[str, Any], accepted: Sequence[str]) -> list[str]:
    """The accepted changes as text.

    Raises:
        UserError: a change was not accepted by name, or cannot be accepted.
    """
    said, centered = [], completed(now)["model.centered"]
    for key, before, after in changed_keys(saved, now):
        if key in KEYS and KEYS[key].decides is Decides.SHAPES:
            raise UserError(f"{key}: {after!r} differs from the checkpoint's {before!r}; allowed: the same")
        if key == "run.seed" and centered:
            raise UserError(
                f"run.seed: {after!r} differs from the checkpoint's {before!r}, whose outputs at its start "
                "model.centered subtracts; allowed: the same"
            )
        if not any(key == name or key.startswith(f"{name}.") for name in accepted):
            raise UserError(
                f"{key}: {after!r} differs from the checkpoint's {before!r}; allowed: the same, or its "
                "name in run.accept_changes"
            )
        said.append(f"{key} {before!r} → {after!r}")
    return said
