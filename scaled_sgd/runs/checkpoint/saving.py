"""Writes a checkpoint: each rank its own file, the folder's name last."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from scaled_sgd.parallel.agreement import from_every_rank, from_first_rank, is_first_rank
from scaled_sgd.runs.checkpoint.files import FileFacts, write_file, write_tensors
from scaled_sgd.runs.checkpoint.folders import begin, publish, tidy
from scaled_sgd.runs.checkpoint.manifest import (
    MANIFEST,
    STATE,
    Manifest,
    encode,
    piece_key,
    private_key,
    rank_file,
)
from scaled_sgd.runs.checkpoint.mistakes import mistakes_in
from scaled_sgd.runs.checkpoint.pieces import Layout, Piece, extents_of, plan, values_in


def save(
    folder: Path,
    step: int,
    *,
    pieces: Sequence[Piece],
    private: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> Path:
    """Write ``folder/step-<step>`` and return its path once it is complete and on the disk. Collective.

    All ranks must see the same ``folder``. A tensor that several ranks hold is written once, in parts. An
    existing folder of that name, intact or not, is replaced: it stays until the new one is complete.
    Interrupted at any byte, this leaves every earlier checkpoint as it was.

    Args:
        folder: folder of all checkpoints of a run; created if missing.
        step: number of steps taken.
        pieces: this rank's parts of the shared tensors; all ranks together cover each of them.
        private: tensors of this rank only, such as random states.
        state: JSON values, including non-finite numbers; rank 0's is written.

    Raises:
        CheckpointError: a file cannot be written on some rank; raised on all.
        ValueError: ``step`` is negative, elements of a tensor are missing, or ranks disagree about its
            shape or dtype.
    """
    if step < 0:
        raise ValueError(f"step: {step}; allowed: 0 or more")
    final = folder / f"step-{step}"
    rank = dist.get_rank() if dist.is_initialized() else 0
    mistakes = mistakes_in(final)
    claims = from_every_rank(lambda: [piece.claim for piece in pieces], mistakes)
    layouts = plan(claims)
    text = from_first_rank(lambda: json.dumps(dict(state)).encode(), mistakes)
    try:
        written = from_first_rank(lambda: begin(folder, step), mistakes)
        facts = from_every_rank(
            lambda: _write_own(written / rank_file(rank), rank, layouts, pieces, private), mistakes
        )
        return from_first_rank(lambda: _complete(written, step, layouts, facts, text), mistakes)
    except BaseException:
        if is_first_rank() and os.path.isdir(folder):
            with contextlib.suppress(OSError):
                tidy(folder)
        raise


def _write_own(
    path: Path,
    rank: int,
    layouts: Mapping[str, Layout],
    pieces: Sequence[Piece],
    private: Mapping[str, Tensor],
) -> FileFacts:
    own = {piece_key(name, e.start): values_in(pieces, name, e) for name, e in extents_of(layouts, rank)}
    return write_tensors(path, own | {private_key(name): t for name, t in private.items()})


def _complete(
    written: Path, step: int, layouts: Mapping[str, Layout], facts: Sequence[FileFacts], state: bytes
) -> Path:
    files = {rank_file(rank): own for rank, own in enumerate(facts)}
    files[STATE] = write_file(written / STATE, [state])
    write_file(written / MANIFEST, [encode(Manifest(step, len(facts), files, layouts))])
    return publish(written)
