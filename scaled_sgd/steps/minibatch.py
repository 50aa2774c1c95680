"""The global minibatch of all processes: its signals, statistics and gradients (theory §2, §3)."""

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from scaled_sgd.core.arguments import check_device, check_samples
from scaled_sgd.core.losses import check_targets, get_loss
from scaled_sgd.core.numbers import check_integer
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.signals import Signals, run_signals
from scaled_sgd.steps.statistics import Statistics, gradient_square, square_norms


class Minibatch:
    """The global minibatch of all processes, in one piece or in chunks of at most ``chunk_size`` samples.

    Iterating yields the :class:`Signals` of each chunk. Those of an unchunked batch are computed once and
    kept; those of chunks are recomputed each time, so that memory does not grow with the batch.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded.
        x: this process's samples, which are gathered, or all samples if ``whole``.
        y: their targets, in the form that the loss takes.
        loss: ``cross_entropy`` or ``mse``.
        chunk_size: largest number of samples at a time; None: all.
        whole: every process passes the same, full minibatch.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: str,
        chunk_size: int | None = None,
        whole: bool = False,
    ) -> None:
        self.partition = Partition.of(model)
        self.loss = get_loss(loss)
        widths = self.partition.model.widths
        check_samples(x, widths[0], self.partition.device)
        if chunk_size is not None:
            check_integer("chunk_size", chunk_size)
        check_targets(self.loss, y, len(x), widths[-1])
        check_device("y", y, self.partition.device)
        self.x, self.y = x.detach(), y.detach()
        if not whole:
            self.x, self.y = self.partition.ranks.gather_samples(self.x, self.y)
        self.chunk_size = chunk_size or len(self.x)
        self._whole: Signals | None = None

    @property
    def total(self) -> int:
        """Number of samples n over all processes."""
        return len(self.x)

    @cached_property
    def statistics(self) -> Statistics:
        """F, D, R, and ‖G_k‖² on demand, of all samples. Collective if weights are sharded."""
        return _statistics(self)

    @property
    def chunked(self) -> bool:
        """Whether there is more than one chunk."""
        return self.chunk_size < self.total

    def __iter__(self) -> Iterator[Signals]:
        if self.chunked:
            for x, y in zip(*(torch.split(t, self.chunk_size) for t in (self.x, self.y)), strict=True):
                yield run_signals(self.partition, x, y, loss=self.loss, total=self.total)
        else:
            yield self.first

    @property
    def first(self) -> Signals:
        """The signals of the first chunk, which is the full batch if there is only one."""
        if self.chunked:
            return next(iter(self))
        if self._whole is None:
            self._whole = run_signals(self.partition, self.x, self.y, loss=self.loss, total=self.total)
        return self._whole


@torch.no_grad()
def _statistics(batch: Minibatch) -> Statistics:
    partition, n = batch.partition, batch.total
    F, D = (torch.zeros_like(partition.alpha) for _ in range(2))
    for signals in batch:
        F += square_norms(signals.h)
        D += square_norms([signals.delta[k] for k in range(1, partition.depth + 1)])
    F, D = F * partition.alpha_squares / n, partition.sum(D) / n

    def grams(i: int) -> tuple[Tensor, Tensor]:
        h, delta = batch.first.h[i], batch.first.delta[i + 1]
        return partition.sum(delta @ delta.T), h @ h.T

    return Statistics(
        slice(0, partition.depth),
        partition.depth,
        F,
        D,
        D[-1],
        partition.omega,
        lambda: _gradient_squares(batch),
        None if batch.chunked else grams,
    )


@torch.no_grad()
def _gradient_squares(batch: Minibatch) -> Tensor:
    """‖G_k‖_F² (l,), float64; for chunks from the rows of their sum."""
    partition, layers = batch.partition, range(1, batch.partition.depth + 1)
    if batch.chunked:
        G = gradient_rows(batch)
        return partition.sum(square_norms([G[k] for k in layers]))
    signals = batch.first
    squares = torch.stack([gradient_square(signals.h[k - 1], signals.delta[k]) for k in layers])
    return partition.sum(squares) * (partition.alpha / batch.total).square()


@torch.no_grad()
def gradient_rows(batch: Minibatch) -> dict[int, Tensor]:
    """This process's rows of G_k = (α_k/n) δ_kᵀ h_{k−1}, for k = 1..l."""
    partition = batch.partition
    G: dict[int, Tensor] = {}
    for signals in batch:
        for k in range(1, partition.depth + 1):
            part = signals.delta[k].T @ signals.h[k - 1]
            G[k] = G[k].add_(part) if k in G else part
    return {k: rows.mul_(partition.multiplier(k) / batch.total) for k, rows in G.items()}
