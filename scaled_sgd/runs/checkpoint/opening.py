"""Finds and verifies checkpoints before they are used."""

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError, safe_open

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel.agreement import from_first_rank, on_every_rank
from scaled_sgd.runs.checkpoint.folders import mend, step_of, steps_in
from scaled_sgd.runs.checkpoint.manifest import (
    MANIFEST,
    STATE,
    Damage,
    Manifest,
    decode,
    piece_key,
    rank_file,
)
from scaled_sgd.runs.checkpoint.mistakes import mistakes_in
from scaled_sgd.runs.checkpoint.pieces import extents_of
from scaled_sgd.runs.checkpoint.reading import Checkpoint
from scaled_sgd.runs.own_files import refuse_link

Check = Callable[[dict[str, Any], int], None]
"""Raises ValueError for a state, at a step, that cannot be resumed."""


def open_checkpoint(path: Path, check: Check | None = None) -> Checkpoint:
    """Open a checkpoint after verifying every byte and, by ``check``, its state. Collective.

    The ranks share the hashing of the files and all come to the same verdict.

    Raises:
        UserError: the checkpoint does not exist or is damaged.
    """
    return on_every_rank(lambda: _verified(path, check))


def newest_intact(folder: Path, check: Check | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint of a run, or None, and why newer ones were skipped. Collective.

    Raises:
        UserError: the folder cannot be read.
    """
    skipped: list[str] = []
    for step in from_first_rank(lambda: _steps(folder), mistakes_in(folder)):
        try:
            return open_checkpoint(folder / f"step-{step}", check), skipped
        except UserError as error:
            skipped.append(str(error))
    return None, skipped


def _steps(folder: Path) -> list[int]:
    try:
        refuse_link(folder)
        if folder.is_dir():
            mend(folder)
        return steps_in(folder)
    except OSError as error:
        raise UserError(
            f"checkpoint: cannot read {str(folder)!r}: {error.strerror}; allowed: a readable folder"
        ) from error


def _verified(path: Path, check: Check | None) -> Checkpoint:
    if not os.path.isdir(path):
        raise UserError(f"checkpoint: {str(path)!r} is not there; allowed: the folder of a checkpoint")
    try:
        manifest = decode(_bytes(path / MANIFEST))
        if step_of(path.name) not in (None, manifest.step):
            raise Damage(f"its manifest is of step {manifest.step}")
        state = _state(path, manifest)
        if check is not None:
            _check_state(state, manifest.step, check)
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for saved_rank in range(rank, manifest.world_size, size):
            _check_file(path, manifest, saved_rank)
    except Damage as damage:
        raise UserError(
            f"checkpoint: {str(path)!r} is damaged: {damage}; allowed: an intact checkpoint"
        ) from damage
    return Checkpoint(path, manifest, state)


def _state(path: Path, manifest: Manifest) -> dict[str, Any]:
    _check_size(path, manifest, STATE)
    text = _bytes(path / STATE)
    if hashlib.sha256(text).hexdigest() != manifest.files[STATE].sha256:
        raise Damage(f"{STATE} has another checksum than its manifest says")
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damage(f"{STATE} is not JSON") from error
    if not isinstance(state, dict):
        raise Damage(f"{STATE} is not an object")
    return state


def _check_state(state: dict[str, Any], step: int, check: Check) -> None:
    try:
        check(state, step)
    except (ValueError, RecursionError) as error:
        raise Damage(str(error)) from error


def _check_file(path: Path, manifest: Manifest, rank: int) -> None:
    """Check that a rank's file is intact and holds what the manifest says."""
    name = rank_file(rank)
    _check_size(path, manifest, name)
    try:
        with (path / name).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != manifest.files[name].sha256:
            raise Damage(f"{name} has another checksum than its manifest says")
        with safe_open(path / name, framework="pt") as file:
            keys = set(file.keys())
            for tensor, e in extents_of(manifest.tensors, rank):
                key = piece_key(tensor, e.start)
                if key not in keys:
                    raise Damage(f"{name} lacks {tensor}")
                held = file.get_slice(key)
                if (held.get_dtype(), list(held.get_shape())) != (
                    manifest.tensors[tensor].dtype,
                    [e.stop - e.start],
                ):
                    raise Damage(f"{name} has another type or size of {tensor} than its manifest says")
    except OSError as error:
        raise Damage(f"{name} cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise Damage(f"{name} is not a safetensors file") from error


def _check_size(path: Path, manifest: Manifest, name: str) -> None:
    size, expected = _size(path / name), manifest.files[name].size
    if size != expected:
        raise Damage(f"{name} has {size} bytes, its manifest says {expected}")


def _size(path: Path) -> int:
    """Size of a regular file in bytes; links are refused, since they may lead anywhere."""
    try:
        facts = path.lstat()
    except FileNotFoundError as error:
        raise Damage(f"{path.name} is missing") from error
    except OSError as error:
        raise Damage(f"{path.name} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise Damage(f"{path.name} is not a regular file")
    return facts.st_size


def _bytes(path: Path) -> bytes:
    _size(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise Damage(f"{path.name} cannot be read: {error.strerror}") from error
