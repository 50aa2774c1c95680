"""Gradients from signals: rows of G_k, and ‖G_k‖_F without them (theory §2)."""

import torch
from torch import Tensor

from scaled_sgd.steps.signals import Minibatch, Signals


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


@torch.no_grad()
def gradient_square_norms(batch: Minibatch) -> Tensor:
    """‖G_k‖_F², shape (l,), float64.

    Through Gram matrices, (α_k/n)² Σ_{s,t} ⟨h_s,h_t⟩⟨δ_s,δ_t⟩, where that takes fewer
    multiplications than forming G_k.
    """
    partition = batch.partition
    if batch.chunked:
        return partition.sum(torch.stack([_square(G) for _, G in sorted(gradient_rows(batch).items())]))
    signals = batch.first
    return partition.sum(torch.stack([_layer(signals, k) for k in range(1, partition.depth + 1)]))


def _layer(signals: Signals, k: int) -> Tensor:
    """This process's part of ‖G_k‖_F²."""
    h, delta = signals.h[k - 1], signals.delta[k]
    n, factor = signals.samples, (signals.partition.multiplier(k) / signals.total) ** 2
    if n * (h.shape[1] + delta.shape[1]) > h.shape[1] * delta.shape[1]:
        return factor * _square(delta.T @ h)
    return factor * ((h @ h.T) * (delta @ delta.T)).sum(dtype=torch.float64)


def _square(t: Tensor) -> Tensor:
    return t.square().sum(dtype=torch.float64)
