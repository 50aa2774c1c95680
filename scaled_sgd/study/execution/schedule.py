"""Executes pending runs on this machine: small ones in workers, large ones launched one by one."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from scaled_sgd.config import Config
from scaled_sgd.parallel.machine import cores
from scaled_sgd.study.execution.launches import launch
from scaled_sgd.study.execution.workers import Task, run_tasks
from scaled_sgd.study.folder import State, StudyFolder
from scaled_sgd.study.grid import Run, Study
from scaled_sgd.study.small.attempt import Train

_MOST_TOGETHER = 64
"""Largest number of runs in one computation."""

_WEIGHTS_TOGETHER = 50_000_000
"""Largest number of weights of all networks in one computation."""

Unsuited = Callable[[Config], str | None]
"""Gives the reason why a run cannot be a small one; None if it can."""


@dataclass(frozen=True)
class PendingRuns:
    """The pending work, each run once.

    Attributes:
        small: runs for workers, longest first.
        large: runs to launch, one after another.
        ended: number of runs that have ended.
    """

    small: tuple[Run, ...]
    large: tuple[Run, ...]
    ended: int

    @property
    def pending(self) -> int:
        """Number of pending runs."""
        return len(self.small) + len(self.large)


def make_schedule(study: Study, runs: Sequence[Run], folder: StudyFolder, unsuited: Unsuited) -> PendingRuns:
    """Divide ``runs`` into ended runs, runs for workers and runs to launch."""
    unique = list({run.id: run for run in runs}.values())
    pending = [run for run in unique if not folder.state(run.id).ended]
    launched = {run.id for run in pending if is_large(run, study, unsuited)}
    large = [run for run in pending if run.id in launched]
    small = sorted((run for run in pending if run.id not in launched), key=lambda run: -run.work)
    return PendingRuns(tuple(small), tuple(large), len(unique) - len(pending))


def is_large(run: Run, study: Study, unsuited: Unsuited) -> bool:
    """Whether a run is launched: a large network, several processes, or features that workers lack."""
    several = (run.config.run.processes or 1) > 1
    return several or run.weights > study.large_weights or unsuited(run.config) is not None


def run_schedule(
    schedule: PendingRuns, folder: StudyFolder, train: Train, *, workers: int, group: bool = False
) -> Counter[str]:
    """Execute the schedule; returns how many runs ended in each way.

    Args:
        schedule: the pending runs.
        folder: folder of the study.
        train: trains small runs.
        workers: number of processes for small runs.
        group: train small runs of one shape together.
    """
    counts: Counter[str] = Counter()
    with tqdm(total=schedule.pending, unit="run", disable=None, dynamic_ncols=True) as bar:

        def told(run: Run, status: str) -> None:
            counts[status] += 1
            bar.set_postfix(counts, refresh=False)
            bar.update()
            if status == State.FAILED:
                bar.write(f"warning: run {run.id}: {folder.error(run.id)}", file=sys.stderr)

        tasks = _tasks(schedule.small, workers) if group else [(run,) for run in schedule.small]
        run_tasks(tasks, folder, train, workers=workers, told=told)
        for run in schedule.large:
            told(run, launch(run, folder))
    return counts


def _tasks(runs: Sequence[Run], workers: int) -> list[Task]:
    """Runs of one shape together, longest stacks first, each with at most a worker's share of the runs."""
    from scaled_sgd.study.small.batched import can_be_stacked, same_shape

    shapes: dict[object, list[Run]] = {}
    for run in runs:
        shape = same_shape(run.config) if can_be_stacked(run.config) else run.id
        shapes.setdefault(shape, []).append(run)
    stacks = [stack for alike in shapes.values() for stack in _stacks(alike, -(-len(runs) // workers))]
    return sorted(stacks, key=lambda stack: -sum(run.work for run in stack))


def _stacks(alike: Sequence[Run], share: int) -> Iterator[Task]:
    size = max(1, min(share, _MOST_TOGETHER, _WEIGHTS_TOGETHER // alike[0].weights))
    for start in range(0, len(alike), size):
        yield alike[start : start + size]


def default_workers() -> int:
    """One worker per GPU, or else per core."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return cores()
