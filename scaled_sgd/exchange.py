"""Training steps of several processes that move factors instead of weights and gradients (theory §6).

A layer's gradient δ_kᵀ h_{k−1} of n samples is known when its factors are, n(m_k + m_{k−1}) numbers instead
of m_k m_{k−1}. Where every process holds all weights, :func:`exchanged_step` gathers the factors and
multiplies them everywhere; where each holds rows of them, :func:`row_sharded_step` gathers activations
and needs nothing else. The arrangement is ours.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.diagnostics.signals import backward, forward
from scaled_sgd.fused import Scale
from scaled_sgd.losses import Loss
from scaled_sgd.model import HomogeneousMLP
from scaled_sgd.sharding import Partition, Ranks
from scaled_sgd.signal_norms import square_norm


@dataclass(frozen=True)
class Link:
    """What exchanging and multiplying cost here.

    Attributes:
        bandwidth: bytes a second that a process sends in an all-gather.
        rate: multiplications and additions a second of one process.
    """

    bandwidth: float
    rate: float


def measure_link(ranks: Ranks, device: torch.device, dtype: torch.dtype) -> Link:
    """Time an all-gather and a matrix product, a tenth of a second; the same on every rank. Collective."""
    t = torch.ones(512, 1024, device=device, dtype=dtype)
    square = torch.ones(1024, 1024, device=device, dtype=dtype)

    def seconds(action: Callable[[], object], repeats: int) -> float:
        action()
        start = time.perf_counter()
        for _ in range(repeats):
            action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / repeats

    exchange = seconds(lambda: ranks.gather(t, [len(t)] * ranks.size), 5)
    product = seconds(lambda: t @ square, 5)
    mean = ranks.sum(torch.tensor([exchange, product], dtype=torch.float64, device=device)) / ranks.size
    exchange, product = mean.tolist()
    sent = t.numel() * t.element_size() * max(ranks.size - 1, 1)
    return Link(sent / exchange, 2 * t.numel() * square.shape[0] / product)


def choose_factors(model: HomogeneousMLP, n: int, ranks: Ranks, link: Link) -> list[bool]:
    """For each layer, whether exchanging the factors of n samples takes less time than its gradient does.

    A gathered factor costs n (W − 1)/W · (m_k + m_{k−1}) numbers and the products of all ranks' samples;
    a ring all-reduce 2 (W − 1)/W · m_k m_{k−1} numbers and the products of this rank's.
    """
    share = (ranks.size - 1) / ranks.size
    choices = []
    for layer in model.scaled_layers:
        fan_in, fan_out = layer.in_features, layer.out_features
        width = layer.weight.element_size() / link.bandwidth
        factors = share * n * (fan_in + fan_out) * width
        factors += 2 * n * fan_in * fan_out / link.rate
        gradient = 2 * share * fan_in * fan_out * width
        gradient += 2 * n / ranks.size * fan_in * fan_out / link.rate
        choices.append(factors < gradient)
    return choices


@torch.no_grad()
def exchanged_step(
    model: HomogeneousMLP,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss,
    scale: Scale,
    lr: float,
    weight_decay: float = 0.0,
    by_factors: Sequence[bool] | None = None,
    ranks: Ranks | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of scaled SGD on this process's samples x (n_r, m_0), y of the global minibatch. Collective.

    The same numbers as :class:`~scaled_sgd.optim.ScaledSGD` without momentum and clipping.

    Args:
        model: the same weights on every process.
        x: this process's samples; numbers may differ, 0 too.
        y: their targets.
        loss: ℓ.
        scale: ξ.
        lr: η.
        weight_decay: λ.
        by_factors: for each layer, whether factors move instead of gradients; all of them when None.
        ranks: the processes that share the minibatch.

    Returns:
        The mean loss of the global minibatch before the update, and ξ (l,), float64.
    """
    ranks = Ranks() if ranks is None else ranks
    whole = Partition.of(model, ranks=Ranks.alone())
    sizes = ranks.counts(len(x), x.device)
    n = sum(sizes)
    h, gate, f = forward(whole, x)
    delta = loss.gradient(f, y)
    sums = ranks.sum(torch.stack((loss.value(f, y).sum().double(), square_norm(delta))))
    value, R = (sums / n).unbind()
    scales = torch.empty(model.depth, dtype=torch.float64, device=x.device)
    for k in range(model.depth, 0, -1):
        layer, signal, residual = model.scaled_layers[k - 1], h[k - 1], delta
        factors = by_factors is None or by_factors[k - 1]
        later = [ranks.gather_later(t, sizes) for t in (signal, residual)] if factors else []
        if k > 1:
            delta = backward(whole, residual, gate[k - 1], k)
        if factors:
            signal, residual = (wait() for wait in later)
        squares = torch.stack((square_norm(signal), square_norm(residual)))
        F, D = ((squares if factors else ranks.sum(squares)) / n).unbind()
        xi = scale(k, layer.multiplier**2 * F, D, R)
        scales[k - 1] = xi
        step, keep = -lr * layer.multiplier / n, 1 - lr * weight_decay
        scaled = residual * xi.to(residual.dtype)
        if factors:
            layer.weight.addmm_(scaled.T, signal, beta=keep, alpha=step)
        else:
            gradient = ranks.sum(scaled.T @ signal)
            (layer.weight if keep == 1 else layer.weight.mul_(keep)).add_(gradient, alpha=step)
    return value, scales


@torch.no_grad()
def row_sharded_step(
    partition: Partition,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss,
    scale: Scale,
    lr: float,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """As :func:`exchanged_step` where every process holds rows of each W_k and none a whole one. Collective.

    All processes work on all samples, each on its rows of the weights: O(n m) numbers move a layer.

    Args:
        partition: a network whose weights lie in rows over all processes, such as FSDP2's shards.
        x: this process's samples of the global minibatch, any number.
        y: their targets.
        loss: ℓ.
        scale: ξ.
        lr: η.
        weight_decay: λ.
    """
    x, y = partition.ranks.gather_samples(x, y)
    n, depth = len(x), partition.depth
    h, gate, f = forward(partition, x)
    residual = loss.gradient(f, y)
    R = square_norm(residual) / n
    delta = partition.own(residual, depth).contiguous()
    scales = torch.empty(depth, dtype=torch.float64, device=x.device)
    for k in range(depth, 0, -1):
        alpha, own = partition.multiplier(k), delta
        if k > 1:
            delta = backward(partition, own, gate[k - 1], k)
        D = partition.sum(square_norm(own)) / n
        xi = scale(k, alpha**2 * square_norm(h[k - 1]) / n, D, R)
        scales[k - 1] = xi
        scaled = own * xi.to(own.dtype)
        partition.local(k).addmm_(scaled.T, h[k - 1], beta=1 - lr * weight_decay, alpha=-lr * alpha / n)
    return loss.value(f, y).mean(), scales
