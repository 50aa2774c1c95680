"""Estimates the remaining time of a study from its finished runs."""

from collections.abc import Sequence

from scaled_sgd.study.folder import State, StudyFolder
from scaled_sgd.study.grid import Run

_LOOKED_AT = 200
_WORK_OF_A_STEP = 1.5e7
"""Overhead of a step besides its products, in multiplications."""


def seconds_left(folder: StudyFolder, runs: Sequence[Run]) -> float | None:
    """Seconds for the pending runs, one after another; None if no run has finished yet.

    Assumes the same time per work as for the finished runs.
    """
    left = seconds = done = 0.0
    looked = 0
    for run in {run.id: run for run in runs}.values():
        work = run.work + _WORK_OF_A_STEP * (run.config.optim.steps or 1)
        summary = folder.summary(run.id)
        if summary is None:
            left += work
        elif looked < _LOOKED_AT and summary["status"] == State.FINISHED and "seconds" in summary:
            looked, seconds, done = looked + 1, seconds + summary["seconds"], done + work
    return left * seconds / done if done else None


def duration(seconds: float) -> str:
    """A duration in its largest units, such as 3 h 20 min."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"
