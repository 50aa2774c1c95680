"""The global minibatch of all processes: its signals, statistics and gradients (theory §2, §3)."""

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from scaled_sgd.core.arguments import check_device, check_samples
from scaled_sgd.core.losses import Centered, Loss, check_targets, get_loss
from scaled_sgd.core.numbers import check_integer
from scaled_sgd.core.start import outputs_at_start
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.layer import Layer, statistics_of
from scaled_sgd.steps.signals import Signals, run_signals
from scaled_sgd.steps.statistics import Statistics, square_norms


class Minibatch:
    """The global minibatch of all processes, in one piece or in chunks of at most ``chunk_size`` samples.

    Iterating yields the :class:`Signals` of each chunk. Those of an unchunked batch are computed once and
    kept; those of chunks are recomputed each time, so that memory does not grow with the batch.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded.
        x: this process's samples, which are gathered, or all samples if ``whole``.
        y: their targets, in the form that the loss takes.
        loss: ``cross_entropy`` or ``mse``, or a loss.
        chunk_size: largest number of samples at a time; None: all.
        whole: every process passes the same, full minibatch.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: str | Loss,
        chunk_size: int | None = None,
        whole: bool = False,
    ) -> None:
        self.partition = Partition.of(model)
        self.loss = get_loss(loss)
        network = self.partition.model
        widths = network.widths
        check_samples(x, widths[0], self.partition.device)
        if chunk_size is not None:
            check_integer("chunk_size", chunk_size)
        check_targets(self.loss, y, len(x), widths[-1])
        check_device("y", y, self.partition.device)
        if network.centered and not isinstance(self.loss, Centered):
            self.loss = Centered(self.loss)
            y = self.loss.joined(outputs_at_start(network, x), y)
        self.x, self.targets = x.detach(), y.detach()
        if not whole:
            self.x, self.targets = self.partition.ranks.gather_samples(self.x, self.targets)
        self.chunk_size = chunk_size or len(self.x)
        self._whole: Signals | None = None

    @cached_property
    def y(self) -> Tensor:
        """Targets in the form that ℓ takes, without f_0 of a centred network."""
        loss, targets = self.loss, self.targets
        return loss.own(targets, self.partition.widths[-1]) if isinstance(loss, Centered) else targets

    @property
    def total(self) -> int:
        """Number of samples n over all processes."""
        return len(self.x)

    @cached_property
    def statistics(self) -> Statistics:
        """F, D, R, and ‖G_k‖² on demand, of all samples. Collective if weights are sharded."""
        return _statistics(self)

    @cached_property
    def layers(self) -> list[Layer]:
        """δ_kᵀ h_{k−1} of every layer, as factors, or as rows if there are chunks."""
        partition, layers = self.partition, range(1, self.partition.depth + 1)
        if self.chunked:
            rows = _summed_rows(self)
            return [Layer(partition, k, None, None, rows[k], whole=False) for k in layers]
        return [Layer(partition, k, self.first.h[k - 1], self.first.delta[k]) for k in layers]

    @property
    def chunked(self) -> bool:
        """Whether there is more than one chunk."""
        return self.chunk_size < self.total

    def __iter__(self) -> Iterator[Signals]:
        if self.chunked:
            for x, y in zip(*(torch.split(t, self.chunk_size) for t in (self.x, self.targets)), strict=True):
                yield run_signals(self.partition, x, y, loss=self.loss, total=self.total)
        else:
            yield self.first

    @property
    def first(self) -> Signals:
        """The signals of the first chunk, which is the full batch if there is only one."""
        if self.chunked:
            return next(iter(self))
        if self._whole is None:
            self._whole = run_signals(self.partition, self.x, self.targets, loss=self.loss, total=self.total)
        return self._whole


@torch.no_grad()
def _statistics(batch: Minibatch) -> Statistics:
    partition, n = batch.partition, batch.total
    F, D = (torch.zeros_like(partition.alpha) for _ in range(2))
    for signals in batch:
        F += square_norms(signals.h)
        D += square_norms([signals.delta[k] for k in range(1, partition.depth + 1)])
    F, D = F * partition.alpha_squares / n, partition.sum(D) / n

    return statistics_of(
        lambda: batch.layers,
        partition,
        slice(0, partition.depth),
        n,
        F,
        D,
        dtype=partition.dtype,
        whole=not batch.chunked,
    )


@torch.no_grad()
def gradient_rows(batch: Minibatch) -> dict[int, Tensor]:
    """This process's rows of G_k = (α_k/n) δ_kᵀ h_{k−1}, for k = 1..l."""
    alpha, n = batch.partition.multiplier, batch.total
    return {k: rows.mul_(alpha(k) / n) for k, rows in _summed_rows(batch).items()}


def _summed_rows(batch: Minibatch) -> dict[int, Tensor]:
    """This process's rows of δ_kᵀ h_{k−1}, for k = 1..l."""
    partition = batch.partition
    G: dict[int, Tensor] = {}
    for signals in batch:
        for k in range(1, partition.depth + 1):
            part = signals.delta[k].T @ signals.h[k - 1]
            G[k] = G[k].add_(part) if k in G else part
    return G
