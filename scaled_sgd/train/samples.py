"""What a run trains, evaluates and is observed on, in the order that its seed gives."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from scaled_sgd.config import Config
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Batch, Data, Resident, rank_rows
from scaled_sgd.parallel import Ranks
from scaled_sgd.train.snapshot import Progressed


class Samples:
    """A run's data on its device.

    Args:
        data: as loaded, the same on every rank.
        config: resolved.
        device: this process's.
    """

    def __init__(self, data: Data, config: Config, device: torch.device) -> None:
        dtype = getattr(torch, config.model.dtype)
        self.train = data.train.to(device, dtype)
        self.held_out = data.evaluation.to(device, dtype)
        self._config = config
        self._one_hot = data.out_features if config.loss == "mse" and data.task == "classification" else None

    def targets(self, y: Tensor) -> Tensor:
        """Targets as the loss takes them: class ids (n,), or numbers (n, m_l)."""
        if self._one_hot is None:
            return y
        return F.one_hot(y, self._one_hot).to(self.held_out.x.dtype)

    def minibatches(self, at: Progressed, steps: int, ranks: Ranks) -> Iterator[tuple[float, Batch]]:
        """Epoch as a fraction, and this rank's part of the global minibatch, from where the run is.

        ``at`` is kept by whoever takes the steps; epochs are counted here.

        Raises:
            UserError: an epoch has no samples.
        """
        optim, seed = self._config.optim, self._config.run.seed
        per_epoch = self.train.steps_per_epoch(optim.batch_size)
        while at.step < steps:
            for batch in self.train.batches(
                batch_size=optim.batch_size,
                seed=seed,
                epoch=at.epoch,
                rank=ranks.rank,
                world_size=ranks.size,
                start=at.minibatch,
            ):
                yield at.epoch + (at.minibatch / per_epoch if per_epoch else 0.0), batch
                if at.step == steps:
                    return
            if at.minibatch == 0:
                source = self._config.data.source
                raise UserError(f"data.source: {source!r} gave no training samples; allowed: at least one")
            at.epoch, at.minibatch = at.epoch + 1, 0

    def probe(self, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """This rank's samples of the probe, and their targets: training samples that stay the same.

        Held-out ones where training streams.
        """
        samples = self.train if isinstance(self.train, Resident) else self.held_out
        chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(self._config.run.seed))
        probe = chosen[: self._config.diagnostics.samples]
        own = probe[rank_rows(len(probe), ranks.rank, ranks.size)].to(samples.x.device)
        return samples.x[own], self.targets(samples.y[own])
