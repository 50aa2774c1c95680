"""Signals and losses of a network moved along a direction, whose weights are never formed (theory §4)."""

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from scaled_sgd.diagnostics.directions import Updates, push
from scaled_sgd.diagnostics.taylor import Along, updates_for
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.signals import Signals


def moved_preactivations(s: Signals, updates: Updates, rate: float) -> Iterator[Tensor]:
    """z_1..z_l of W + rate · u, one at a time, complete on every process."""
    partition, h = s.partition, s.h[0]
    for k in range(1, s.depth + 1):
        own = push(partition, updates(k), h, k).mul_(rate)
        own.addmm_(h, partition.local(k).T, alpha=partition.multiplier(k))
        z = partition.gather(own, k)
        yield z
        h = partition.activation_at(k).value(z)


@torch.no_grad()
def moved_loss(batch: Minibatch, updates: Callable[[Signals], Updates], rate: float) -> Tensor:
    """L(W + rate · u), (), float64. Costs a forward pass and as many products with u."""
    total = torch.zeros((), dtype=torch.float64, device=batch.partition.device)
    for s in batch:
        f = deque(moved_preactivations(s, updates(s), rate), maxlen=1).pop()
        total += s.losses(f).sum(dtype=torch.float64)
    return total / batch.total


def loss_of_rate(batch: Minibatch, along: Along) -> Callable[[float], float]:
    """L(W + rate · u) of a rate, for u as :func:`~scaled_sgd.diagnostics.taylor.taylor_of` takes it.

    Collective; the same number on every process.
    """
    updates, ranks = updates_for(batch, along), batch.partition.ranks

    def at(rate: float) -> float:
        loss = moved_loss(batch, updates, rate)
        # Rank 0's: searches on all ranks must take the same turns.
        return float(ranks.sum(loss if ranks.rank == 0 else torch.zeros_like(loss)))

    return at
