"""Reads any range of any tensor of a checkpoint, whatever world and layout wrote it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.runs.checkpoint.dtypes import DTYPES
from scaled_sgd.runs.checkpoint.manifest import Manifest, piece_key, private_key, rank_file
from scaled_sgd.runs.checkpoint.pieces import Layout


class Checkpoint:
    """A verified checkpoint. Reading is not collective: a rank reads only what it needs.

    Args:
        path: its folder.
        manifest: its contents.
        state: the state that rank 0 saved.
    """

    def __init__(self, path: Path, manifest: Manifest, state: dict[str, Any]) -> None:
        self.path = path
        self.state = state
        self._manifest = manifest

    @property
    def step(self) -> int:
        """Number of steps taken."""
        return self._manifest.step

    @property
    def world_size(self) -> int:
        """Number of ranks that wrote it."""
        return self._manifest.world_size

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors that all ranks share."""
        return tuple(self._manifest.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a full tensor.

        Raises:
            UserError: there is no such tensor.
        """
        return self._layout(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of a tensor.

        Raises:
            UserError: there is no such tensor.
        """
        return DTYPES[self._layout(name).dtype]

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of a flat tensor, shape (stop − start,), on the CPU.

        Raises:
            UserError: there is no such tensor or range, or a file has vanished since verification.
        """
        layout = self._layout(name)
        count = math.prod(layout.shape)
        if not 0 <= start <= stop <= count:
            raise UserError(
                f"checkpoint: {str(self.path)!r} has no numbers {start} to {stop} of {name!r}; "
                f"allowed: 0 to {count}"
            )
        values = torch.empty(stop - start, dtype=DTYPES[layout.dtype])
        for extent in layout.extents:
            low, high = max(start, extent.start), min(stop, extent.stop)
            if low < high:
                with self._file(extent.rank) as file:
                    held = file.get_slice(piece_key(name, extent.start))
                    values[low - start : high - start] = held[low - extent.start : high - extent.start]
        return values

    def private(self, rank: int) -> dict[str, Tensor]:
        """The private tensors of ``rank``.

        Raises:
            UserError: the checkpoint has fewer ranks, or a file has vanished since verification.
        """
        if not 0 <= rank < self.world_size:
            raise UserError(
                f"checkpoint: {str(self.path)!r} has no rank {rank}; allowed: 0 to {self.world_size - 1}"
            )
        prefix = private_key("")
        with self._file(rank) as file:
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
            return {key.removeprefix(prefix): file.get_tensor(key).clone() for key in keys}

    def _layout(self, name: str) -> Layout:
        if name not in self._manifest.tensors:
            allowed = ", ".join(self.names) or "none"
            raise UserError(f"checkpoint: {str(self.path)!r} has no tensor {name!r}; allowed: {allowed}")
        return self._manifest.tensors[name]

    @contextmanager
    def _file(self, rank: int) -> Iterator[Any]:
        path = self.path / rank_file(rank)
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"checkpoint: cannot read {str(path)!r}: {error}; allowed: an intact checkpoint"
            ) from error
