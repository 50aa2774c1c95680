"""Converts a run's state to checkpoint contents, and back on any world and strategy."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Batch
from scaled_sgd.diagnostics.observer import fits_any_world
from scaled_sgd.runs.checkpoint import Checkpoint, Piece
from scaled_sgd.train.strategies import Strategy
from scaled_sgd.train.strategies.shards import Read


@dataclass
class Progressed:
    """The progress of a run: its next step and minibatch.

    Attributes:
        step: the next step, from 0.
        epoch: epoch of its minibatch.
        minibatch: index of its minibatch in the epoch.
        samples: samples seen so far, over all processes.
        seconds: seconds of training so far.
        first_loss: loss of step 0; None before it.
        last_loss: last logged loss.
        max_loss: largest loss of all steps; None before the first, and in checkpoints that lack it.
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
        """Advance past a step on ``batch``."""
        self.step, self.samples = self.step + 1, self.samples + batch.n_global
        self.epoch, self.minibatch = batch.epoch, batch.number + 1


def pieces(strategy: Strategy) -> list[Piece]:
    """This process's elements of every weight and of its optimizer state."""
    return [
        Piece(f"{kind}.{shard.k}", shard.shape, shard.start, values)
        for kind in ("weight", *strategy.kept)
        for shard in strategy.shards
        if (values := shard.values(kind)) is not None
    ]


def counts(strategy: Strategy, names: Sequence[str]) -> dict[str, float]:
    """Numbers in the optimizer state that are the same for all weights."""
    states = [state for state in strategy.optimizer.state.values() if isinstance(state, dict)]
    return {name: float(states[0][name]) for name in names if states and name in states[0]}


def restore_pieces(strategy: Strategy, checkpoint: Checkpoint, *, kept: Sequence[str]) -> None:
    """Restore every weight and its optimizer state; each process reads its own part, without communication.

    Raises:
        UserError: the checkpoint belongs to another network.
    """
    for shard in strategy.shards:
        for kind in ("weight", *kept):
            name = f"{kind}.{shard.k}"
            if kind != "weight" and name not in checkpoint.names:
                continue
            if checkpoint.shape(name) != shard.shape:
                raise UserError(
                    f"run.resume: {name} of {str(checkpoint.path)!r} has shape {checkpoint.shape(name)}; "
                    f"allowed: {shard.shape}"
                )
            shard.fill(kind, _reader(checkpoint, name))


def restore_counts(strategy: Strategy, found: Mapping[str, float], names: Sequence[str]) -> None:
    """Restore those of :func:`counts` that are in ``names``."""
    for layer in strategy.network.scaled_layers:
        for name in [name for name in names if name in found]:
            strategy.optimizer.state[layer.weight][name] = torch.tensor(found[name])


def _reader(checkpoint: Checkpoint, name: str) -> Read:
    return lambda start, stop: checkpoint.read(name, start, stop)


@contextmanager
def refused(checkpoint: Checkpoint, what: str) -> Iterator[None]:
    """Turn the errors of a stored ``what`` of another form into one line.

    Raises:
        UserError: it cannot be restored.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError, OverflowError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"run.resume: the {what} of {str(checkpoint.path)!r} cannot be restored: {reason}; allowed: an "
            "intact checkpoint"
        ) from error


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
    """Restore :func:`random_states`."""
    torch.set_rng_state(states["random.torch"])
    *keys, place, gauss = states["random.numpy"].tolist()
    cached = float(states["random.numpy_normal"])
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, gauss, cached))
    version, *internal = states["random.python"].tolist()
    normal = states["random.python_normal"].tolist()
    random.setstate((version, tuple(internal), normal[0] if normal else None))
    if "random.cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["random.cuda"])


def observer_state(tensors: Mapping[str, Tensor], device: torch.device, *, starts: bool) -> dict[str, Tensor]:
    """What of a process's stored tensors is an observer's; without what fits one world, unless ``starts``."""
    return {
        name: tensor.to(device)
        for name, tensor in tensors.items()
        if not name.startswith("random.") and (starts or fits_any_world(name))
    }
