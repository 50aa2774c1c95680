"""A run's samples for training, evaluation and diagnostics, in the order given by its seed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from scaled_sgd.config import Config
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Batch, Data, Resident, rank_rows
from scaled_sgd.data.batches import epoch_seed
from scaled_sgd.parallel import Ranks


class Samples:
    """A run's data on its device, with targets in the loss's form: class ids (n,), or numbers (n, m_l).

    Args:
        data: as loaded, the same on every rank.
        config: resolved.
        device: this process's.

    Attributes:
        train: samples to train on.
        held_out: samples to evaluate on.
        references: targets of the held-out samples for metrics: class ids, or numbers in their own unit.
    """

    def __init__(self, data: Data, config: Config, device: torch.device) -> None:
        dtype = getattr(torch, config.model.dtype)
        self.train = data.train.to(device, dtype)
        self.held_out = data.evaluation.to(device, dtype)
        numbers = data.task == "regression"
        self.references = data.pipeline.in_unit(self.held_out.y) if numbers else self.held_out.y
        self._config = config
        if config.loss == "mse" and data.task == "classification":
            classes = data.out_features

            def one_hot(y: Tensor) -> Tensor:
                return F.one_hot(y, classes).to(dtype)

            self.train, self.held_out = self.train.with_targets(one_hot), self.held_out.with_targets(one_hot)

    def join(
        self,
        constant: Callable[[Tensor], Tensor],
        joined: Callable[[Tensor, Tensor], Tensor],
        ranks: Ranks,
    ) -> None:
        """Make the targets y of every sample ``joined(constant(x), y)``. Collective.

        Args:
            constant: computes numbers (n, d) of samples (n, m_0).
            joined: puts them and targets together.
            ranks: the processes that share the work.
        """
        assert isinstance(self.train, Resident)
        both = []
        for samples in (self.train, self.held_out):
            parts = [rank_rows(len(samples), rank, ranks.size) for rank in range(ranks.size)]
            own = constant(samples.x[parts[ranks.rank]])
            found = ranks.gather(own, [part.stop - part.start for part in parts])
            both.append(samples.with_targets(partial(joined, found)))
        self.train, self.held_out = both

    def minibatches(self, ranks: Ranks, *, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The global minibatches, epoch after epoch, starting with minibatch ``start`` of ``epoch``.

        Args:
            ranks: the processes that share them.
            epoch: first epoch.
            start: first minibatch.

        Raises:
            UserError: an epoch has no samples.
        """
        batch_size, seed = self._config.optim.batch, self._config.run.seed
        while True:
            found = self.train.batches(
                batch_size=batch_size,
                seed=seed,
                epoch=epoch,
                rank=ranks.rank,
                world_size=ranks.size,
                start=start,
            )
            batch = None
            for batch in found:
                yield batch if isinstance(self.train, Resident) else _gathering(batch, ranks)
            if batch is None and start == 0:
                source = self._config.data.source
                raise UserError(f"data.source: {source!r} gave no training samples; allowed: at least one")
            epoch, start = epoch + 1, 0

    def passed(self, epoch: int, number: int) -> float:
        """Passes over the data before minibatch ``number`` of ``epoch``; complete ones of a stream."""
        per_epoch = self.train.steps_per_epoch(self._config.optim.batch)
        return epoch + (number / per_epoch if per_epoch else 0.0)

    @property
    def probe_is_all(self) -> bool:
        """Whether the probe has all training samples."""
        size = self._config.diagnostics.probe_size
        return isinstance(self.train, Resident) and size >= len(self.train)

    def fresh(self, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """A minibatch of a step's size from all training samples, the same on every rank.

        Args:
            batch: that of the coming step, whose place in the run seeds the draw.
            number: from 0; each gives another minibatch.

        Raises:
            UserError: training data are streamed.
        """
        if not isinstance(self.train, Resident):
            raise UserError(
                "data.streaming: true has no minibatches for diagnostics to draw; allowed with "
                "batch_sharpness, gradient_noise, batch_spectrum and noise_stability in "
                "diagnostics.quantities: false"
            )
        seed = self._config.run.seed
        for place in (batch.epoch, batch.number, number):
            seed = epoch_seed(seed, place)
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        chosen = order[: self._config.optim.batch].to(self.train.x.device)
        return self.train.x[chosen], self.train.y[chosen]

    def probe(self, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """This rank's samples of the probe: training samples that stay the same.

        Held-out samples if training data are streamed.
        """
        samples = self.train if isinstance(self.train, Resident) else self.held_out
        chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(self._config.run.seed))
        probe = chosen[: self._config.diagnostics.probe_size]
        own = probe[rank_rows(len(probe), ranks.rank, ranks.size)].to(samples.x.device)
        return samples.x[own], samples.y[own]


def _gathering(batch: Batch, ranks: Ranks) -> Batch:
    """A minibatch of a stream, of which each rank decoded its own rows: all of them are gathered."""
    own = batch.own()
    shares = [rank_rows(batch.n_global, rank, ranks.size) for rank in range(ranks.size)]
    sizes = [share.stop - share.start for share in shares]
    return replace(batch, gather=lambda: (ranks.gather(own[0], sizes), ranks.gather(own[1], sizes)))
