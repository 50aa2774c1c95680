"""Rows of ``metrics.jsonl`` and outcomes of ``summary.json``, the same for every run (docs/records.md)."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def step_row(
    measured: Mapping[str, Any],
    *,
    step: int,
    epoch: float,
    samples: int,
    lr: float,
    loss: float,
    max_loss: float,
    grad_norm: float | None,
    scales: Sequence[float],
    soft_ranks: Sequence[float] | None,
    seconds: float,
) -> dict[str, Any]:
    """The row of a step.

    Args:
        measured: results of evaluation and diagnostics.
        step: number of updates before it.
        epoch: passes over the data before it.
        samples: samples seen before it.
        lr: η.
        loss: loss of its minibatch before its update.
        max_loss: largest of this and all earlier steps.
        grad_norm: ‖(G_1, …, G_l)‖_F.
        scales: ξ_1..ξ_l.
        soft_ranks: S_1..S_l of its minibatch.
        seconds: seconds of training so far.
    """
    row = {
        "step": step,
        "epoch": round(epoch, 6),
        "samples": samples,
        "lr": lr,
        "loss": loss,
        "max_loss": max_loss,
        "grad_norm": grad_norm,
        "scales": scales,
        "seconds": seconds,
    }
    if soft_ranks is not None:
        row["minibatch_soft_ranks"] = soft_ranks
    return row | dict(measured)


def last_row(
    steps: int,
    *,
    epoch: float,
    samples: int,
    train_loss: float | None,
    max_loss: float | None,
    evaluation: Mapping[str, float],
    seconds: float,
) -> dict[str, Any]:
    """The row of the trained network, after ``steps`` updates, with the loss over all training samples."""
    return {
        "step": steps,
        "epoch": round(epoch, 6),
        "samples": samples,
        "train_loss": train_loss,
        "max_loss": max_loss,
        "seconds": seconds,
        **evaluation,
    }


def finished(
    steps: int,
    *,
    initial_loss: float | None,
    max_loss: float | None,
    train_loss: float | None,
    evaluation: Mapping[str, float],
    seconds: float,
) -> dict[str, Any]:
    """The outcome of a run that reached its last step."""
    return {
        "status": "finished",
        "steps": steps,
        "initial_loss": initial_loss,
        "max_loss": max_loss,
        "train_loss": train_loss,
        **evaluation,
        "seconds": seconds,
    }


def diverged(step: int, layer: int | None, *, initial_loss: float | None, seconds: float) -> dict[str, Any]:
    """The outcome of a run whose ``layer``, or loss if None, became non-finite at ``step``."""
    return {
        "status": "diverged",
        "step": step,
        "layer": layer,
        "steps": step,
        "initial_loss": initial_loss,
        "max_loss": None,
        "train_loss": None,
        "seconds": seconds,
    }


def interrupted(step: int, *, seconds: float) -> dict[str, Any]:
    """The outcome of a run that a signal ended after ``step`` updates."""
    return {"status": "interrupted", "step": step, "steps": step, "seconds": seconds}


def numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a nested record under dotted names; entry k of a list, counted from 1, is ``name.k``.

    None becomes NaN.

    Raises:
        ValueError: a leaf is not a number, or too large for float64.
    """
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from numbers(value, f"{name}.")
        elif isinstance(value, list):
            yield from numbers({str(k): entry for k, entry in enumerate(value, start=1)}, f"{name}.")
        elif value is None:
            yield name, math.nan
        elif isinstance(value, int | float) and not isinstance(value, bool):
            try:
                yield name, float(value)
            except OverflowError:
                raise ValueError(f"{name} is too large a number") from None
        else:
            raise ValueError(f"{name} is {str(value)[:60]!r}, not a number")


def losses(rows: Iterable[Mapping[str, Any]]) -> list[float]:
    """All minibatch losses in ``rows``."""
    found = [row.get(name) for row in rows for name in ("loss", "max_loss")]
    return [loss for loss in found if isinstance(loss, int | float)]
