"""Finds where a run starts: fresh, or from a verified checkpoint that fits the configuration."""

import contextlib
import os
import re
import secrets
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import cast

from scaled_sgd.config import Config, as_dict
from scaled_sgd.config.comparison import check_changes
from scaled_sgd.config.resumed import run_of
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Data
from scaled_sgd.data.facts import changed_fact, data_facts
from scaled_sgd.parallel.agreement import on_every_rank, on_first_rank
from scaled_sgd.runs.checkpoint import Checkpoint, newest_intact, open_checkpoint
from scaled_sgd.runs.checkpoint.folders import step_of
from scaled_sgd.runs.checkpoint.manifest import MANIFEST
from scaled_sgd.runs.directory import RunDirectory, delete_model
from scaled_sgd.runs.own_files import read_file
from scaled_sgd.train.stored_state import check_state


@dataclass(frozen=True)
class Start:
    """The start of a run.

    Attributes:
        directory: the run directory to continue, on rank 0; None: make a new one.
        checkpoint: None: from step 0.
    """

    directory: RunDirectory | None = None
    checkpoint: Checkpoint | None = None


def find_start(config: Config) -> Start:
    """The start that ``run.resume`` selects; prints what it skipped. Collective.

    A run directory that is continued is locked before anything in it is read.

    Raises:
        UserError: there is no such run, no intact checkpoint at the given path, or the run is in use.
    """
    run = config.run
    if run.resume == "no":
        return Start()
    named = None if run.name is None else Path(run.dir) / run.name
    if run.resume == "auto":
        assert named is not None
        folder, chosen = named, None
    else:
        place, chosen = on_every_rank(lambda: _locate(run.resume))
        if place is None:
            if named is None:
                raise UserError(f"run.resume: {run.resume!r} is in no run directory; allowed: with run.name")
            return Start(None, open_checkpoint(cast(Path, chosen), check_state))
        folder = place
    in_place = named is None or _same(named, folder)
    exists = on_every_rank(folder.is_dir)
    directory = on_first_rank(lambda: RunDirectory(folder) if in_place and exists else None)
    try:
        return Start(directory, _checkpoint_of(folder, chosen, directory, needed=run.resume != "auto"))
    except BaseException:
        if directory is not None:
            directory.close()
        raise


def _checkpoint_of(
    folder: Path, chosen: Path | None, directory: RunDirectory | None, *, needed: bool
) -> Checkpoint | None:
    """The chosen checkpoint, or the newest intact one of the run in ``folder``; None if there is none."""
    if chosen is not None:
        return open_checkpoint(chosen, check_state)
    checkpoint, skipped = newest_intact(folder / "checkpoints", check_state)
    on_first_rank(lambda: _say_skipped(folder / "checkpoints", skipped, rename=directory is not None))
    if checkpoint is None and (skipped or needed):
        raise UserError(
            f"run.resume: {str(folder)!r} has no intact checkpoint; allowed: a run with one, or no"
        )
    if checkpoint is None and directory is not None:
        print(f"run.resume: no checkpoint in {str(folder)!r}; starting over", file=sys.stderr, flush=True)
        directory.metrics.cut(0)
    return checkpoint


def check_start(checkpoint: Checkpoint, config: Config, data: Data) -> list[str]:
    """Check that a resolved configuration and its data fit ``checkpoint``; returns the accepted changes.

    Raises:
        UserError: a difference that affects the weights is not accepted by name.
    """
    accepted = config.run.accept_changes
    changes = check_changes(checkpoint.state["config"], as_dict(config), accepted)
    saved, now = checkpoint.state["data"], data_facts(data)
    key = changed_fact(saved, now)
    if key is not None:
        if not {"data", "data.source"} & set(accepted):
            raise UserError(
                f"data.source: {config.data.source!r} has {key} {now.get(key)}, the checkpoint's data "
                f"{saved.get(key)}; allowed: the same data, or data.source in run.accept_changes"
            )
        changes.append(f"data ({key} {saved.get(key)} → {now.get(key)})")
    return changes


def open_directory(config: Config, start: Start) -> RunDirectory:
    """The run directory of ``start``, or a new one, with the configuration of this run. On one rank.

    Raises:
        UserError: it already exists or cannot be created.
    """
    run = config.run
    if start.directory is not None:
        directory = start.directory
        delete_model(directory.model)
    elif run.name is not None:
        directory = RunDirectory.make(run.dir, run.name)
    else:
        source = re.sub(r"[^A-Za-z0-9._-]", "-", Path(config.data.source).stem).strip(".-")
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        directory = RunDirectory.make(run.dir, f"{source or 'run'}-{stamp}", numbered=True)
    try:
        _take_up(directory, config, start)
    except BaseException:
        directory.close()
        raise
    return directory


def _take_up(directory: RunDirectory, config: Config, start: Start) -> None:
    """Write the configuration, and the rows and checkpoints of ``start`` up to its step."""
    run = config.run
    if run.trackers:
        _refuse_links(directory.path)
    if start.checkpoint is not None:
        _take_metrics(directory, start.checkpoint)
    if start.checkpoint is not None and start.directory is not None:
        _leave_behind(directory.checkpoints, start.checkpoint.step)
    # Changes and code are accepted only once.
    written = replace(run, name=directory.path.name, resume="no", accept_changes=[], accept_code=[])
    directory.write_config(as_dict(replace(config, run=written)))


def _refuse_links(folder: Path) -> None:
    """Trackers write below the run directory, and follow links."""
    for entry in os.scandir(folder):
        if entry.is_symlink():
            raise UserError(f"run.trackers: {entry.path!r} is a link; allowed: a run directory without links")


def _take_metrics(directory: RunDirectory, checkpoint: Checkpoint) -> None:
    """Truncate the metrics of ``directory`` to the checkpoint.

    Later rows are logged again. A new directory gets the rows of the run that it continues.
    """
    size = checkpoint.state["progressed"]["metrics_bytes"]
    origin = run_of(checkpoint.path)
    if origin is None:
        return
    if _same(origin, directory.path):
        directory.metrics.cut(min(size, directory.metrics.size))
        return
    try:
        directory.metrics.append(read_file(origin / "metrics.jsonl", follow=False)[:size])
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"run.resume: cannot read {error.filename!r}: {error.strerror}; allowed: a run's metrics.jsonl"
        ) from error


def _locate(path: str) -> tuple[Path | None, Path | None]:
    """The run directory at or above ``path``, if any, and the checkpoint if ``path`` is one."""
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        return run_of(folder), folder
    if (folder / "config.yaml").is_file():
        return folder, None
    raise UserError(
        f"run.resume: no run or checkpoint at {path!r}; allowed: no, auto, or the path of a run or checkpoint"
    )


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()


def _say_skipped(folder: Path, skipped: list[str], *, rename: bool) -> None:
    """Report and rename skipped checkpoints, so that they do not count among those that are kept."""
    for reason in skipped:
        print(f"warning: {reason}", file=sys.stderr, flush=True)
    for path in folder.glob("step-*") if rename else ():
        if any(repr(str(path)) in reason for reason in skipped):
            _rename(path, "damaged")


def _leave_behind(folder: Path, step: int) -> None:
    """Rename checkpoints after ``step``, which belong to an abandoned continuation of the run."""
    for path in folder.glob("step-*"):
        later = step_of(path.name)
        if later is not None and later > step:
            _rename(path, "left")


def _rename(path: Path, why: str) -> None:
    with contextlib.suppress(OSError):
        os.rename(path, path.with_name(f"{path.name}.{why}-{secrets.token_hex(4)}"))
