"""``scaled-sgd study run``: prints the plan and executes the pending runs."""

import argparse
import hashlib
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scaled_sgd.core.errors import LOST_STATUS, UserError
from scaled_sgd.core.text import escaped
from scaled_sgd.runs.own_files import make_folder
from scaled_sgd.runs.records import replace_file
from scaled_sgd.study.execution.assignment import Command
from scaled_sgd.study.execution.changes import changes
from scaled_sgd.study.execution.estimate import duration, seconds_left
from scaled_sgd.study.execution.jobs import FOLDER
from scaled_sgd.study.execution.schedule import default_workers, make_schedule, run_schedule
from scaled_sgd.study.execution.submission import Submission, submit
from scaled_sgd.study.folder import State, StudyFolder
from scaled_sgd.study.grid import Run, Study, expand
from scaled_sgd.study.grid.study_file import is_stored
from scaled_sgd.study.options import ACCEPT, folder_name
from scaled_sgd.study.small.attempt import DataShelf
from scaled_sgd.study.small.engine import train, unsuited


def run_study(
    options: argparse.Namespace,
    study: Study,
    path: Path,
    parameters: Mapping[str, Any],
    *,
    command: Command,
) -> int:
    """Execute the pending runs of a study.

    Args:
        options: options of the command line.
        study: the study.
        path: its file.
        parameters: parameters for Slurm.
        command: ``scaled-sgd study``, which jobs call.

    Returns:
        the exit status.
    """
    folder = StudyFolder(_home(path, options))
    shelf = DataShelf()
    runs = expand(study, shelf)
    if options.share is not None:
        with folder.locked(by_jobs=True):
            return _execute(options, study, _shared(runs, options.share.split(",")), folder)
    schedule = make_schedule(study, runs, folder, unsuited)
    print(
        f"{folder.name}: {schedule.ended + schedule.pending} runs, {schedule.ended} ended, "
        f"{len(schedule.small)} small and {len(schedule.large)} large to do; {_weights(runs)}; "
        f"in {folder.path}",
        file=sys.stderr,
    )
    submission = None
    if options.executor is not None and schedule.pending:
        jobs = max(1, min(options.jobs, schedule.pending))
        submission = Submission(options.executor, jobs, options.at_once, options.minutes, parameters)
        print(
            f"jobs: {submission.jobs} by {submission.executor}, {submission.at_once or 'all'} at once, "
            f"{submission.minutes} minutes each, {-(-schedule.pending // submission.jobs)} runs each",
            file=sys.stderr,
        )
    workers = options.workers or (submission.cores if submission else default_workers())
    side_by_side = workers * submission.side_by_side if submission else workers
    seconds = seconds_left(folder, runs)
    if schedule.pending and seconds is not None:
        print(f"time: about {duration(seconds / min(side_by_side, schedule.pending))}", file=sys.stderr)
    if options.dry_run:
        return 0
    if options.executor is None:
        with folder.locked():
            _write(study, runs, folder)
            return _execute(options, study, runs, folder)
    user = folder.user
    if user is not None:
        raise UserError(f"study: {str(folder.path)!r} is being run by {user}; allowed: one at a time")
    _write(study, runs, folder)
    if submission is None:
        return 0
    told = _for_jobs(options, folder, workers)
    identifiers = submit(submission, folder.path, command, told, [*schedule.small, *schedule.large])
    print(
        f"submitted: {', '.join(identifiers)}; scaled-sgd study status {folder.path} tells", file=sys.stderr
    )
    if submission.executor == "slurm":
        return 0
    left = make_schedule(study, runs, folder, unsuited).pending
    return _told_what_is_left(left, folder)


def _write(study: Study, runs: Sequence[Run], folder: StudyFolder) -> None:
    changed = changes(folder, study, runs)
    folder.write_plan(study, runs)
    if changed is not None:
        print(changed, file=sys.stderr)


def _execute(options: argparse.Namespace, study: Study, runs: Sequence[Run], folder: StudyFolder) -> int:
    schedule = make_schedule(study, runs, folder, unsuited)
    workers = options.workers or default_workers()
    counts = run_schedule(
        schedule, folder, train, workers=workers, group=_grouped(options.batched, schedule.small)
    )
    ended = ", ".join(f"{counts[state]:,} {state}" for state in State if counts[state])
    report = ["scaled-sgd", "study", "report", str(folder.path)]
    if plugins := study.base.get("run.plugins"):
        report += [f"--{ACCEPT}", f"[{', '.join(plugins)}]"]
    print(f"done: {ended or 'nothing'}; {shlex.join(report)} shows it", file=sys.stderr)
    return _told_what_is_left(counts[State.FAILED] + counts[State.RUNNING], folder)


def _told_what_is_left(left: int, folder: StudyFolder) -> int:
    if left:
        print(
            f"{left} runs failed or are made by others; scaled-sgd study status {folder.path} tells",
            file=sys.stderr,
        )
    return LOST_STATUS if left else 0


def _grouped(asked: str, small: Sequence[Run]) -> bool:
    """Whether runs of one shape train together; on a CPU only on request, since rounding differs."""
    if asked != "auto" or not small or not torch.cuda.is_available():
        return asked == "yes"
    from scaled_sgd.study.small.batched import faster_batched

    return faster_batched([run.config for run in small])


def _shared(runs: Sequence[Run], mine: Sequence[str]) -> list[Run]:
    """The runs of a job.

    Raises:
        UserError: the study does not have all of them.
    """
    by_id = {run.id: run for run in runs}
    for name in mine:
        if name not in by_id:
            raise UserError(
                f"share: run {name!r} is none of this study's, whose data or package changed since it was "
                "submitted; allowed: submit it again"
            )
    return [by_id[name] for name in mine]


def _for_jobs(options: argparse.Namespace, folder: StudyFolder, workers: int) -> list[str]:
    """The jobs' arguments: the study as submitted, regardless of later changes of its file and folder."""
    source = folder.path / "study.yaml"
    kept = folder.path / FOLDER / f"study-{hashlib.sha256(source.read_bytes()).hexdigest()[:8]}.yaml"
    make_folder(kept.parent)
    replace_file(kept, lambda path: shutil.copyfile(source, path))
    told = [str(kept.resolve()), "--dir", str(folder.path.parent), "--name", folder.name]
    told += ["--batched", options.batched]
    # A Slurm job detects its resources; a local job has one core, or one GPU.
    own = options.workers or (workers if options.executor == "local" else None)
    return told if own is None else [*told, "--workers", str(own)]


def _weights(runs: Sequence[Run]) -> str:
    fewest, most = min(run.weights for run in runs), max(run.weights for run in runs)
    return f"{fewest:,} weights" if fewest == most else f"{fewest:,} to {most:,} weights"


def _home(path: Path, options: argparse.Namespace) -> Path:
    """The folder of a study: that of its file, if a run stored the file."""
    if options.name is None and is_stored(path):
        if escaped(path.parent.name) != path.parent.name:
            raise UserError(
                f"study: {str(path.parent)!r} is not usable; allowed: a name without control characters"
            )
        return path.parent
    return Path(options.dir) / folder_name(options, path)
