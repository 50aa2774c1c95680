"""Runs what is pending of a study on this machine: small runs in workers, large ones launched one by one."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import yaml
from tqdm import tqdm

from scaled_sgd.config import Config, as_dict
from scaled_sgd.machine import cores
from scaled_sgd.study.attempt import Train
from scaled_sgd.study.folder import State, StudyFolder
from scaled_sgd.study.grid import Run, Study
from scaled_sgd.study.workers import Task, run_tasks

Unsuited = Callable[[Config], str | None]
"""Why a run cannot be a small one; None where it can."""

_STOPPED = (130, 138, 143)


@dataclass(frozen=True)
class Plan:
    """What is to be done, each run once.

    Attributes:
        small: runs for workers, longest first.
        large: runs that are launched, one after the other.
        ended: how many runs need nothing any more.
    """

    small: tuple[Run, ...]
    large: tuple[Run, ...]
    ended: int

    @property
    def pending(self) -> int:
        """How many runs are to be done."""
        return len(self.small) + len(self.large)


def make_plan(study: Study, runs: Sequence[Run], folder: StudyFolder, unsuited: Unsuited) -> Plan:
    """Sort out what of ``runs`` has ended, what workers do and what is launched."""
    unique = list({run.id: run for run in runs}.values())
    pending = [run for run in unique if not folder.state(run.id).ended]
    large = [run for run in pending if is_large(run, study, unsuited)]
    small = [run for run in pending if run not in large]
    small.sort(key=lambda run: -run.work)
    return Plan(tuple(small), tuple(large), len(unique) - len(pending))


def is_large(run: Run, study: Study, unsuited: Unsuited) -> bool:
    """Whether a run is launched by itself: a large network, several processes, or what workers do not do."""
    several = (run.config.run.processes or 1) > 1
    return several or run.weights > study.large_weights or unsuited(run.config) is not None


def run_plan(
    plan: Plan, folder: StudyFolder, train: Train, *, workers: int, group: bool = False
) -> Counter[str]:
    """Do it; how many runs ended in each way.

    Args:
        plan: what is pending.
        folder: of the study.
        train: for small runs.
        workers: processes for small runs.
        group: train small runs of one shape together.
    """
    counts: Counter[str] = Counter()
    with tqdm(total=plan.pending, unit="run", disable=None, dynamic_ncols=True) as bar:

        def told(run: Run, status: str) -> None:
            counts[status] += 1
            bar.set_postfix(counts, refresh=False)
            bar.update()
            if status == State.FAILED:
                bar.write(f"warning: run {run.id}: {folder.error(run.id)}", file=sys.stderr)

        run_tasks(list(_tasks(plan.small, group=group)), folder, train, workers=workers, told=told)
        for run in plan.large:
            told(run, launch(run, folder))
    return counts


def launch(run: Run, folder: StudyFolder) -> str:
    """Train one run in processes of its own, from its newest checkpoint if it has one; how it ended.

    Raises:
        KeyboardInterrupt: a signal ended it; it goes on from there the next time.
    """
    place = folder.begin(run.id, keep=True)
    files = folder.path / "launches"
    files.mkdir(exist_ok=True)
    config = as_dict(run.config)
    config["run"] |= {"name": run.id, "dir": str(place.parent), "resume": "auto"}
    path = files / f"{run.id}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "scaled_sgd.cli", "train", "--config", str(path)]
    with open(files / f"{run.id}.log", "ab") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if status in _STOPPED:
        raise KeyboardInterrupt
    state = folder.state(run.id)
    if state.ended:
        return state.value
    lines = (files / f"{run.id}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    folder.fail(run.id, f"exit status {status}: {lines[-1] if lines else 'it said nothing'}")
    return State.FAILED.value


def _tasks(runs: Sequence[Run], *, group: bool) -> Iterator[Task]:
    if not group:
        yield from ((run,) for run in runs)
        return
    from scaled_sgd.study.batched import same_shape

    stacks: dict[object, list[Run]] = {}
    for run in runs:
        stacks.setdefault(same_shape(run.config), []).append(run)
    yield from stacks.values()


def default_workers() -> int:
    """One a GPU, or one a core."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return cores()
