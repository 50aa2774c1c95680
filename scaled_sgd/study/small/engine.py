"""Trains small runs in this process: the trainer's loop with light records, for one run or a stack."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaled_sgd.config import Config
from scaled_sgd.config.resumed import BUILT_IN_METRICS
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Data
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.study.small.batched import Together
from scaled_sgd.study.small.record import SmallRecord
from scaled_sgd.study.small.session import small_session, stepper_of
from scaled_sgd.train.loop import Loop


def train(configs: Sequence[Config], data: Sequence[Data], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Train to the end, or to the first step with a non-finite loss; returns the summaries.

    Each folder then holds config.yaml, metrics.jsonl and, written last, summary.json, with the numbers of
    :class:`scaled_sgd.train.trainer.Trainer` on one process. Several runs are stacked, with the same numbers
    up to rounding; runs with the same seed share minibatches.

    Args:
        configs: configurations of one shape (:func:`~scaled_sgd.study.small.batched.same_shape`).
        data: the data of each run; runs with the same object and seed share minibatches.
        folders: the folder of each run.

    Raises:
        UserError: a run needs the trainer, or does not fit the data, this machine or its folder.
        ValueError: the shapes differ.
    """
    for config in configs:
        refuse_unsuited(config)
    sessions = [small_session(config, own) for config, own in zip(configs, data, strict=True)]
    with contextlib.ExitStack() as opened:
        records = [
            opened.enter_context(SmallRecord(session, folder, together=len(sessions)))
            for session, folder in zip(sessions, folders, strict=True)
        ]
        stepper = stepper_of(sessions[0]) if len(sessions) == 1 else Together(sessions)
        try:
            return Loop(sessions, stepper, records).run()
        finally:
            stepper.end()


_SUITED: dict[str, tuple[object, ...]] = {
    "data.streaming": (False,),
    "run.precision": ("no", "bf16"),
    "run.processes": (1,),
    "run.resume": ("no",),
    "run.trackers": (),
    "run.metrics": tuple(BUILT_IN_METRICS),
    "sharding.strategy": ("auto", *(one.name for one in STRATEGIES.entries if one.fused and not one.rows)),
    "sharding.exchange": ("auto",),
    "sharding.activation_checkpointing": (False,),
    "diagnostics.keep_vectors": (False,),
    "checkpoint.every_steps": (),
    "checkpoint.keep_steps": (),
}
"""What a small run supports: values of keys, or entries of lists, besides null.

Small runs write no checkpoints, so a configuration with checkpoint steps is unsuited. ``optim.accumulation``
may have any value: a step without microbatches is the same.
"""


def unsuited(config: Config) -> str | None:
    """One line about why a run needs the trainer; None if :func:`train` supports it."""
    for key, allowed in _SUITED.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        asked = value if isinstance(value, list) else [] if value is None else [value]
        if not set(asked) <= set(allowed):
            names = ", ".join("false" if one is False else str(one) for one in allowed)
            names = names or ("none" if isinstance(value, list) else "null")
            return f"{key}: {value!r} is for the trainer; allowed in a small run: {names}"
    if config.run.precision == "bf16" and config.optim.update != "fused":
        reason = "by autograd is for the trainer; allowed in a small run: optim.update fused"
        return f"run.precision: 'bf16' {reason}"
    return None


def refuse_unsuited(config: Config) -> None:
    """Raise UserError if :func:`unsuited` gives a reason."""
    reason = unsuited(config)
    if reason is not None:
        raise UserError(reason)
