"""Checkpoints that survive a kill and fit any number of processes and any layout of weights.

``<folder>/step-<n>/`` has one file per rank (``rank-<i>.safetensors``), ``state.json`` and, written
last, ``manifest.json``. Together they hold full tensors for any layout; a reader reads any range of them.
"""

from typing import TYPE_CHECKING

from scaled_sgd.core.lazy import attach

if TYPE_CHECKING:
    from scaled_sgd.runs.checkpoint.folders import prune
    from scaled_sgd.runs.checkpoint.opening import newest_intact, open_checkpoint
    from scaled_sgd.runs.checkpoint.pieces import Piece
    from scaled_sgd.runs.checkpoint.reading import Checkpoint
    from scaled_sgd.runs.checkpoint.saving import save

__all__ = ["Checkpoint", "Piece", "newest_intact", "open_checkpoint", "prune", "save"]

_HOMES = {"Checkpoint": "reading", "Piece": "pieces", "prune": "folders", "save": "saving"}
__getattr__, __dir__ = attach(
    __name__, {name: f"runs.checkpoint.{_HOMES.get(name, 'opening')}" for name in __all__}
)
