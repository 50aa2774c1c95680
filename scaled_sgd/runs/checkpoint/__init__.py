"""Checkpoints that survive a kill and move between numbers of processes and layouts of weights.

``<folder>/step-<n>/`` has a file of each rank (``rank-<i>.safetensors``), ``state.json`` and, written
last, ``manifest.json``. It holds whole tensors whatever the layout was; a reader takes any range of them.
"""

from scaled_sgd.runs.checkpoint.folders import prune
from scaled_sgd.runs.checkpoint.opening import newest_intact, open_checkpoint
from scaled_sgd.runs.checkpoint.pieces import Piece
from scaled_sgd.runs.checkpoint.reading import Checkpoint
from scaled_sgd.runs.checkpoint.saving import save

__all__ = ["Checkpoint", "Piece", "newest_intact", "open_checkpoint", "prune", "save"]
