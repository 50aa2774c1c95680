"""How far preactivations have moved: what a coordinate check plots (theory §1)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scaled_sgd.steps.signals import Minibatch


@torch.no_grad()
def preactivations(batch: Minibatch) -> list[Tensor]:
    """z_1..z_l, each (samples, m_k), complete on every process. Collective where weights are in parts."""
    partition = batch.partition
    chunks = [
        [partition.preactivation(signals.h[k - 1], k) for k in range(1, partition.depth)] + [signals.f]
        for signals in batch
    ]
    return [torch.cat(parts) for parts in zip(*chunks, strict=True)]


def relative_change(now: Sequence[Tensor], first: Sequence[Tensor]) -> Tensor:
    """RMS(z_k − z_k at first) / RMS(z_k at first), shape (l,)."""
    return torch.stack([(z - z_0).norm() / z_0.norm() for z, z_0 in zip(now, first, strict=True)])
