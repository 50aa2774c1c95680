"""Decides whether replicas exchange a layer's factors or its gradient (theory §6).

The factors determine a layer's gradient δ_kᵀ h_{k−1} of n samples with n (m_k + m_{k−1}) numbers instead of
m_k m_{k−1}; :func:`scaled_sgd.steps.step.take_step` exchanges either. The criterion is ours.
Does not import torch before it measures: the planner uses it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from scaled_sgd.parallel import Ranks


@dataclass(frozen=True)
class Link:
    """Measured speed of communication and products.

    Attributes:
        bandwidth: bytes per second that a process sends in an all-gather.
        rate: multiplications and additions per second of one process.
    """

    bandwidth: float
    rate: float


def measure_link(ranks: "Ranks", device: "torch.device", dtype: "torch.dtype") -> Link:
    """Time an all-gather and a matrix product for a tenth of a second; the same on every rank. Collective."""
    import torch

    t = torch.ones(512, 1024, device=device, dtype=dtype)
    square = torch.ones(1024, 1024, device=device, dtype=dtype)

    def seconds(action: Callable[[], object], repeats: int) -> float:
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
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


def choose_factors(
    widths: Sequence[int], n: int, ranks: int, link: Link, *, itemsize: int, factor_size: int | None = None
) -> list[bool]:
    """For each layer, whether exchanging the factors of n samples is faster than exchanging its gradient.

    A gathered factor costs n (W − 1)/W · (m_k + m_{k−1}) numbers and the products of all ranks' samples;
    a ring all-reduce 2 (W − 1)/W · m_k m_{k−1} numbers and the products of this rank's. A number of a
    gradient has ``itemsize`` bytes, one of a factor ``factor_size``, by default as many.
    """
    share, number = (ranks - 1) / ranks, itemsize / link.bandwidth
    factor = number if factor_size is None else factor_size / link.bandwidth
    return [
        share * n * (fan_in + fan_out) * factor + 2 * n * fan_in * fan_out / link.rate
        < 2 * share * fan_in * fan_out * number + 2 * n / ranks * fan_in * fan_out / link.rate
        for fan_in, fan_out in pairwise(widths)
    ]


def described(by_factors: Sequence[bool]) -> str:
    """A choice as text."""
    moved = {
        "factors": [k for k, factors in enumerate(by_factors, start=1) if factors],
        "gradients": [k for k, factors in enumerate(by_factors, start=1) if not factors],
    }
    parts = [f"{what} of layers {', '.join(map(str, ks))}" for what, ks in moved.items() if ks]
    return "; ".join(parts)
