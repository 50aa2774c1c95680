"""Names and renames of checkpoint folders, such that an intact one exists at every moment.

``step-<n>`` is complete. ``.step-<n>.<nonce>`` is being written and ``.step-<n>.<nonce>.old`` is being
deleted. If both exist with one nonce while ``step-<n>`` is missing, a replacement was interrupted between
its two renames: the new folder is complete and only needs its name.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Container
from pathlib import Path

from scaled_sgd.parallel.agreement import from_first_rank
from scaled_sgd.runs.checkpoint.files import sync_folder
from scaled_sgd.runs.checkpoint.mistakes import mistakes_in
from scaled_sgd.runs.own_files import delete, make_folder

_STEP = re.compile(r"step-(0|[1-9][0-9]*)")
_WRITTEN = re.compile(r"\.(step-(?:0|[1-9][0-9]*))\.[0-9a-f]{16}")
_OLD = ".old"
_OURS = re.compile(r"\.?step-(0|[1-9][0-9]*)(\.[0-9a-f]{16}(\.old)?|\.(left|damaged)-[0-9a-f]{8})?")


def step_of(name: str) -> int | None:
    """The n of a folder named step-<n>; None for any other name."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def steps_in(folder: Path) -> list[int]:
    """Steps that have a folder, newest first; none if ``folder`` does not exist.

    Links are not counted: they belong to whoever made them.
    """
    if not folder.is_dir():
        return []
    names = (entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    return sorted((step for step in map(step_of, names) if step is not None), reverse=True)


def begin(folder: Path, step: int) -> Path:
    """Make the folder to write ``step`` in, after cleaning up after interrupted saves."""
    new = not folder.is_dir()
    make_folder(folder)
    if new:
        sync_folder(folder.parent)
    tidy(folder)
    written = folder / f".step-{step}.{secrets.token_hex(8)}"
    os.mkdir(written)
    return written


def publish(written: Path) -> Path:
    """Give a complete folder its final name, replacing any other; the name is on the disk on return."""
    final = _final(written)
    sync_folder(written)
    if os.path.lexists(final):
        os.rename(final, _old(written))
    os.rename(written, final)
    sync_folder(final.parent)
    _delete(_old(written))
    return final


def tidy(folder: Path) -> None:
    """Clean up after interrupted saves: finish a replacement, delete the rest."""
    mend(folder)
    for name in sorted(os.listdir(folder)):
        if _WRITTEN.fullmatch(name.removesuffix(_OLD)):
            _delete(folder / name)


def mend(folder: Path) -> None:
    """Finish replacements that were interrupted between their two renames."""
    for written in [folder / name for name in os.listdir(folder) if _WRITTEN.fullmatch(name)]:
        if os.path.lexists(_old(written)) and not os.path.lexists(_final(written)):
            os.rename(written, _final(written))
            sync_folder(folder)


def prune(folder: Path, keep: int, named: Container[int] = ()) -> list[int]:
    """Delete all but the newest ``keep`` steps and those in ``named``; returns the deleted steps. Collective.

    Folders that are not named step-<n> are never touched.

    Raises:
        CheckpointError: a folder cannot be renamed; raised on every rank.
        ValueError: ``keep`` is negative.
    """
    if keep < 0:
        raise ValueError(f"keep: {keep}; allowed: 0 or more")
    return from_first_rank(lambda: _prune(folder, keep, named), mistakes_in(folder))


def _prune(folder: Path, keep: int, named: Container[int]) -> list[int]:
    unwanted = [step for step in steps_in(folder)[keep:] if step not in named]
    moved = [folder / f".step-{step}.{secrets.token_hex(8)}{_OLD}" for step in unwanted]
    for step, path in zip(unwanted, moved, strict=True):
        os.rename(folder / f"step-{step}", path)
    if moved:
        sync_folder(folder)
    for path in moved:
        _delete(path)
    return unwanted


def delete_all(folder: Path) -> None:
    """Delete every checkpoint, also unfinished and renamed ones, and the folder if nothing else is in it."""
    for name in os.listdir(folder):
        if _OURS.fullmatch(name):
            _delete(folder / name)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _final(written: Path) -> Path:
    match = _WRITTEN.fullmatch(written.name)
    assert match is not None
    return written.parent / match[1]


def _old(written: Path) -> Path:
    return written.with_name(written.name + _OLD)


def _delete(path: Path) -> None:
    # What cannot be deleted now is retried at the next save; its name marks it as obsolete.
    with contextlib.suppress(OSError):
        delete(path)
