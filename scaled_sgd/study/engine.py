"""Small runs inside this process: the trainer's loop with light records, for one run or a stack of them."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaled_sgd.config import Config
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Data
from scaled_sgd.data.metrics.evaluation import TASK_OF_BUILT_IN
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.study.batched import Together
from scaled_sgd.study.record import Record
from scaled_sgd.study.small import small_session, stepper_of
from scaled_sgd.train.loop import Loop


def train(configs: Sequence[Config], data: Sequence[Data], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Train to the end, or to the step whose loss is not finite; the summaries.

    Each folder then holds config.yaml, metrics.jsonl and, written last, summary.json, with the numbers of
    :class:`scaled_sgd.train.trainer.Trainer` on one process. Several runs train together, with the same
    numbers but for rounding: their networks are stacked, and those of one seed share minibatches.

    Args:
        configs: of one shape (:func:`~scaled_sgd.study.batched.same_shape`).
        data: of each; runs of one seed and one object take the same minibatches.
        folders: of each.

    Raises:
        UserError: a run has to go through the trainer, or does not fit the data, this machine or its folder.
        ValueError: the shapes differ.
    """
    for config in configs:
        refuse_unsuited(config)
    sessions = [small_session(config, own) for config, own in zip(configs, data, strict=True)]
    with contextlib.ExitStack() as opened:
        records = [
            opened.enter_context(Record(session, folder, together=len(sessions)))
            for session, folder in zip(sessions, folders, strict=True)
        ]
        stepper = stepper_of(sessions[0]) if len(sessions) == 1 else Together(sessions)
        return Loop(sessions, stepper, records).run()


_SUITED: dict[str, tuple[object, ...]] = {
    "data.streaming": (False,),
    "run.precision": ("no",),
    "run.processes": (1,),
    "run.resume": ("no",),
    "run.trackers": (),
    "run.metrics": tuple(TASK_OF_BUILT_IN),
    "sharding.strategy": ("auto", *(one.name for one in STRATEGIES.entries if one.fused and not one.rows)),
    "sharding.exchange": ("auto",),
    "sharding.activation_checkpointing": (False,),
    "checkpoint.every_steps": (),
    "checkpoint.keep_steps": (),
}
"""What a small run can do: values of keys, or entries of lists, besides null.

No checkpoints are written, but a configuration that names steps for them wants them. ``optim.accumulation``
may be any: a step is the same in one piece.
"""


def unsuited(config: Config) -> str | None:
    """Why a run has to go through the trainer, in one line; None where :func:`train` can take it."""
    # A plugin may have added an optimizer since this module was imported.
    optimizers = tuple(one.name for one in OPTIMIZERS.entries if one.stacked)
    for key, allowed in {"optim.optimizer": optimizers, **_SUITED}.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        asked = value if isinstance(value, list) else [] if value is None else [value]
        if not set(asked) <= set(allowed):
            names = ", ".join("false" if one is False else str(one) for one in allowed)
            names = names or ("none" if isinstance(value, list) else "null")
            return f"{key}: {value!r} is for the trainer; allowed in a small run: {names}"
    return None


def refuse_unsuited(config: Config) -> None:
    """Raise UserError where :func:`unsuited` has a reason."""
    reason = unsuited(config)
    if reason is not None:
        raise UserError(reason)
