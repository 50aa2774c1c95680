"""``zero1``, ``zero2``: all weights on every process, masters and momentum in parts (DeepSpeed 0.17–0.19).

Gradients are copied one by one into a bucket that DeepSpeed allocates whole, B numbers however small the
network is; on a CPU only the pages that are written take room. Buckets are averaged through a flat copy by an
all-reduce, not a reduce-scatter, whatever the backend. Of the average a process copies the layers of which
its part has any number.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from scaled_sgd.planning.cluster import Cluster
from scaled_sgd.planning.cost import GRADIENTS, MASTERS, MOMENTUM, WEIGHTS, Cost, cost
from scaled_sgd.planning.holding import BUFFERS, GRADIENT, Holding
from scaled_sgd.planning.ledger import Ledger
from scaled_sgd.planning.load import Load
from scaled_sgd.planning.products import products
from scaled_sgd.planning.replicas import norms, run_passes
from scaled_sgd.planning.traffic import Traffic, all_gather, all_reduce

BUCKET = 500_000_000
"""``reduce_bucket_size``: numbers that are reduced at a time."""
MASTER = 4
"""Bytes of a master, of its momentum, and of a number that is summed."""


def zero1(load: Load, cluster: Cluster) -> Cost:
    """Gradients whole until the step, masters and momentum in parts."""
    return _zero(1, load, cluster)


def zero2(load: Load, cluster: Cluster) -> Cost:
    """As ``zero1``; each microbatch's gradients are averaged at once and kept in parts."""
    return _zero(2, load, cluster)


def _zero(stage: int, load: Load, cluster: Cluster) -> Cost:
    ledger, part = Ledger(), -(-load.weights // cluster.ranks)
    narrow = load.signal_size
    ledger.take(WEIGHTS, narrow * load.weights)
    ledger.take(MASTERS, MASTER * part)
    if load.momentum:
        ledger.take(MOMENTUM, MASTER * part)
    holding = FlatParts(stage, load, ledger, cluster)
    run_passes(load, cluster.ranks, holding, ledger, gloo=cluster.gloo)
    holding.step(part)
    traffic = norms(load, cluster) + all_gather(narrow * load.weights, cluster.everyone, cluster)
    traffic += holding.reductions.times(load.accumulation if stage == 2 else 1)
    work = products(load, cluster, data=cluster.ranks)
    return cost(f"zero{stage}", ledger, traffic, multiplying=work.total, seconds=work.total + traffic.seconds)


class FlatParts(Holding):
    """What DeepSpeed does with gradients in stages 1 and 2.

    Attributes:
        reductions: traffic of the averages of one backward pass.
    """

    def __init__(self, stage: int, load: Load, ledger: Ledger, cluster: Cluster) -> None:
        super().__init__(load, ledger)
        self._stage, self._cluster = stage, cluster
        self._narrow = load.signal_size
        self._own = largest_share(load, cluster.ranks)
        self._filled = self._bucket = 0
        self._kept = self._kept_before = 0
        self.reductions = Traffic()

    def start_pass(self, *, first: bool, last: bool) -> None:
        """See :class:`~scaled_sgd.planning.holding.Holding`."""
        super().start_pass(first=first, last=last)
        self.reductions = Traffic()

    def gradient(self, k: int) -> None:
        """Stage 1 keeps it; stage 2 copies it into the bucket."""
        ledger, size = self.ledger, self._narrow * self.numbers[k - 1]
        if not self._bucket and not self._cluster.gloo:
            self._touch(self._narrow * BUCKET)
        if self._stage == 2:
            self._put(k, GRADIENT)
        elif self.first:
            ledger.move(GRADIENT, GRADIENTS, size)
        else:
            ledger.give(GRADIENT, size)

    def end_backward(self) -> None:
        """Average what is in the bucket and give the bucket up."""
        if self._stage == 2 or self.last:
            self.ledger.doing("gradients averaged")
            if self._stage == 1:
                for k in range(1, self.load.depth + 1):
                    self._put(k, GRADIENTS)
            self._average()
            self.ledger.give(BUFFERS, self._bucket)
            self._bucket = 0
            if self._kept_before:
                self.ledger.give(GRADIENTS, self._kept)
            else:
                self._kept_before = self._kept
            self._kept = 0

    def step(self, part: int) -> None:
        """ξ, the norm and the update, on this process's part of the gradients."""
        ledger, narrow = self.ledger, self._narrow
        ledger.doing("step")
        scaled = 2 * MASTER if self.load.half else MASTER
        ledger.pass_through(BUFFERS, scaled * self._own.fragment)
        ledger.pass_through(BUFFERS, 8 * self._own.fragment)  # its norm is summed in float64
        ledger.take(BUFFERS, narrow * part)
        if self.load.half:
            ledger.take(BUFFERS, MASTER * part)
            ledger.give(BUFFERS, narrow * part)
        ledger.give(GRADIENTS, self._kept_before)
        ledger.give(BUFFERS, (MASTER if self.load.half else narrow) * part)
        if self._cluster.gloo and self._cluster.ranks > 1:
            ledger.pass_through(BUFFERS, narrow * self.load.weights)

    def _put(self, k: int, source: str) -> None:
        """Copy the gradient of W_k into the bucket, which is averaged first where it has no room."""
        numbers = self.numbers[k - 1]
        if self._filled and self._filled + numbers > BUCKET:
            self._average()
        if numbers <= BUCKET:
            if self._cluster.gloo:
                self._touch(max(0, self._narrow * (self._filled + numbers) - self._bucket))
            self.ledger.give(source, self._narrow * numbers)
            self._filled += numbers
            return
        self._filled = numbers
        self._average()
        self.ledger.give(source, self._narrow * numbers)

    def _touch(self, count: int) -> None:
        self.ledger.take(BUFFERS, count)
        self._bucket += count

    def _average(self) -> None:
        ledger, cluster = self.ledger, self._cluster
        if cluster.ranks > 1:
            ledger.take(BUFFERS, self._narrow * self._filled)
            if self.load.half:
                ledger.pass_through(BUFFERS, MASTER * self._filled)
            ledger.give(BUFFERS, self._narrow * self._filled)
        self.reductions += all_reduce(MASTER * self._filled, cluster.everyone, cluster)
        if not self._kept:
            self._kept = self._narrow * self._own.layers
            ledger.take(GRADIENTS, self._kept)
        self._filled = 0


@dataclass(frozen=True)
class Share:
    """What the flat part of a process touches.

    Attributes:
        layers: numbers of all layers that it has any number of.
        fragment: most numbers of one layer that lie in it.
    """

    layers: int
    fragment: int


def largest_share(load: Load, ranks: int) -> Share:
    """The share of the process that needs most room.

    A part either holds the first number of some layer or lies within one layer.
    """
    part = -(-load.weights // ranks)
    offsets = [0, *accumulate(load.sizes)]
    shares = [Share(max(load.sizes), min(part, max(load.sizes)))]
    for first in {offset // part for offset in offsets[:-1]}:
        start, stop = first * part, min((first + 1) * part, load.weights)
        begin, end = bisect_right(offsets, start) - 1, bisect_right(offsets, stop - 1)
        fragments = [min(stop, offsets[k + 1]) - max(start, offsets[k]) for k in range(begin, end)]
        shares.append(Share(offsets[end] - offsets[begin], max(fragments)))
    return max(shares, key=lambda share: share.layers * load.signal_size + 8 * share.fragment)
