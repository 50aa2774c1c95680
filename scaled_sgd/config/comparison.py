"""Whether a run may go on from a checkpoint of another configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

from scaled_sgd.config.schema import flat
from scaled_sgd.core.errors import UserError

FREE = (
    "run.name", "run.dir", "run.device", "run.processes", "run.eval_every", "run.log_every", "run.metrics",
    "run.trackers", "run.resume", "run.accept_changes", "run.timeout_seconds", "sharding.", "checkpoint.",
    "diagnostics.", "optim.accumulation", "optim.epochs", "optim.fused_update",
)  # fmt: skip
"""Keys that may change: they decide what is seen of a run and how it is computed, not its weights."""

FIXED = ("model.depth", "model.base_width", "model.width_exponent")
"""Keys that may not change even if accepted: they decide the shapes of the weights."""


def changed_keys(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Key, saved value and present value wherever two configurations differ in what decides the weights."""
    before, after = flat(saved), flat(now)
    keys = sorted(before.keys() | after.keys())
    return [
        (key, before.get(key), after.get(key))
        for key in keys
        if before.get(key) != after.get(key) and not key.startswith(FREE)
    ]


def check_changes(saved: Mapping[str, Any], now: Mapping[str, Any], accepted: Sequence[str]) -> list[str]:
    """The accepted changes, in words.

    Raises:
        UserError: a change that is not accepted by name, or cannot be.
    """
    said = []
    for key, before, after in changed_keys(saved, now):
        if key.startswith(FIXED):
            raise UserError(f"{key}: {after!r} differs from the checkpoint's {before!r}; allowed: the same")
        if not any(key == name or key.startswith(f"{name}.") for name in accepted):
            raise UserError(
                f"{key}: {after!r} differs from the checkpoint's {before!r}; allowed: the same, or its "
                "name in run.accept_changes"
            )
        said.append(f"{key} {before!r} → {after!r}")
    return said
