"""What of a run goes into a checkpoint, and back into a run of any world and strategy."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Batch
from scaled_sgd.runs.checkpoint import Checkpoint, Piece
from scaled_sgd.train.strategies import Strategy
from scaled_sgd.train.strategies.shards import Kind, Read


@dataclass
class Progressed:
    """How far a run has come: the next step and the minibatch that it takes.

    Attributes:
        step: of the next update, from 0.
        epoch: of its minibatch.
        minibatch: its place in the epoch.
        samples: seen so far, over all processes.
        seconds: of training so far.
        first_loss: of step 0; None before it.
        last_loss: last one logged.
        max_loss: largest of all steps; None before the first, and in a checkpoint that does not know it.
        metrics_bytes: length of the metrics file.
    """

    step: int = 0
    epoch: int = 0
    minibatch: int = 0
    samples: int = 0
    seconds: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None
    max_loss: float | None = None
    metrics_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def pass_by(self, batch: Batch) -> None:
        """A step was taken on ``batch``."""
        self.step, self.samples = self.step + 1, self.samples + batch.n_global
        self.epoch, self.minibatch = batch.epoch, batch.number + 1


def pieces(strategy: Strategy) -> list[Piece]:
    """This process's numbers of every weight and momentum."""
    return [
        Piece(f"{kind}.{shard.k}", shard.shape, shard.start, values)
        for kind in get_args(Kind)
        for shard in strategy.shards
        if (values := shard.values(kind)) is not None
    ]


def restore_pieces(strategy: Strategy, checkpoint: Checkpoint, *, momentum: bool) -> None:
    """Fill every weight, and momentum where there is one; each process reads what it holds, nothing moves.

    Raises:
        UserError: the checkpoint is of another network.
    """
    for shard in strategy.shards:
        for kind in get_args(Kind):
            name = f"{kind}.{shard.k}"
            if kind == "momentum" and not (momentum and name in checkpoint.names):
                continue
            if checkpoint.shape(name) != shard.shape:
                raise UserError(
                    f"run.resume: {name} of {str(checkpoint.path)!r} has shape {checkpoint.shape(name)}; "
                    f"allowed: {shard.shape}"
                )
            shard.fill(kind, _reader(checkpoint, name))


def _reader(checkpoint: Checkpoint, name: str) -> Read:
    return lambda start, stop: checkpoint.read(name, start, stop)


def random_states() -> dict[str, Tensor]:
    """States of the generators of torch, numpy and Python on this process."""
    kind, keys, place, gauss, cached = np.random.get_state(legacy=True)
    version, internal, normal = random.getstate()
    del kind
    states = {
        "random.torch": torch.get_rng_state(),
        "random.numpy": torch.tensor([*map(int, keys), place, gauss]),
        "random.numpy_normal": torch.tensor(cached, dtype=torch.float64),
        "random.python": torch.tensor([version, *internal]),
        "random.python_normal": torch.tensor([] if normal is None else [normal], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Take up :func:`random_states`."""
    torch.set_rng_state(states["random.torch"])
    *keys, place, gauss = states["random.numpy"].tolist()
    cached = float(states["random.numpy_normal"])
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, gauss, cached))
    version, *internal = states["random.python"].tolist()
    normal = states["random.python_normal"].tolist()
    random.setstate((version, tuple(internal), normal[0] if normal else None))
    if "random.cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["random.cuda"])


_LISTS = {"kernel": "first_kernels", "preactivation": "first_preactivations"}
"""What an observer keeps of its first call, one tensor a layer: names in checkpoints, and in its state."""


def observer_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """An observer's state as tensors by name: start vectors, first kernels and preactivations."""
    found = {f"start.{name}": vectors for name, vectors in state["starts"].items()}
    for name, key in _LISTS.items():
        layers: Sequence[Tensor] = state[key] or []
        found |= {f"{name}.{k}": layer for k, layer in enumerate(layers, start=1)}
    return found


def observer_state(tensors: Mapping[str, Tensor], device: torch.device, *, starts: bool) -> dict[str, Any]:
    """Back from :func:`observer_tensors`; without start vectors, which fit one world, unless ``starts``."""

    def named(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor.to(device)
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }

    state: dict[str, Any] = {"starts": named("start.")}
    for name, key in _LISTS.items():
        layers = sorted(named(f"{name}.").items(), key=lambda item: int(item[0]))
        state[key] = [layer for _, layer in layers] or None
    # An observer of an earlier version did not keep them: changes since then are not known.
    state["knows_first"] = state["first_preactivations"] is not None or not (
        state["starts"] or state["first_kernels"]
    )
    return state if starts else state | {"starts": {}}
