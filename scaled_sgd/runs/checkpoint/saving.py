"""Writing a checkpoint: all ranks together, each its own file, the name last."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from scaled_sgd.parallel.agreement import is_first_rank
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
from scaled_sgd.runs.checkpoint.pieces import Layout, Piece, extents_of, plan, values_in
from scaled_sgd.runs.checkpoint.together import from_first, on_all


def save(
    folder: Path,
    step: int,
    *,
    pieces: Sequence[Piece],
    private: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> Path:
    """Write ``folder/step-<step>``, complete and on the disk when this returns its path. Collective.

    All ranks see one ``folder``. A tensor that several ranks hold is written once, in parts. A folder
    that has the name already, intact or not, is replaced: it stays until the new one is complete.
    Interrupted at any byte, this leaves every earlier checkpoint as it was.

    Args:
        folder: of all checkpoints of a run; made where missing.
        step: number of steps taken.
        pieces: what this rank holds of the tensors of all ranks, which together cover each of them.
        private: tensors of this rank alone, such as random states.
        state: anything that JSON holds, and non-finite numbers; rank 0's is written.

    Raises:
        CheckpointError: a file cannot be written on some rank; the same on all.
        ValueError: ``step`` is negative, numbers of a tensor are missing, or ranks disagree about its
            shape or type.
    """
    if step < 0:
        raise ValueError(f"step: {step}; allowed: 0 or more")
    final = folder / f"step-{step}"
    rank = dist.get_rank() if dist.is_initialized() else 0
    claims = on_all(final, lambda: [piece.claim for piece in pieces])
    layouts = plan(claims)
    text = from_first(final, lambda: json.dumps(dict(state)).encode())
    try:
        written = from_first(final, lambda: begin(folder, step))
        facts = on_all(final, lambda: _write_own(written / rank_file(rank), rank, layouts, pieces, private))
        return from_first(final, lambda: _complete(written, step, layouts, facts, text))
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
