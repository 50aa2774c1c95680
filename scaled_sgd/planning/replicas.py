"""``ddp``: all weights on every process, gradients averaged in buckets."""

from collections.abc import Iterable

from scaled_sgd.planning.autograd import Pass
from scaled_sgd.planning.cluster import Cluster
from scaled_sgd.planning.cost import GRADIENTS, MOMENTUM, WEIGHTS, Cost, cost
from scaled_sgd.planning.holding import GRADIENT, SAMPLES, Holding
from scaled_sgd.planning.ledger import Ledger
from scaled_sgd.planning.load import Load
from scaled_sgd.planning.products import products
from scaled_sgd.planning.traffic import Traffic, all_reduce

NARROW = "16-bit weights"
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20
"""Bytes at which DistributedDataParallel closes its first bucket and the others."""


def ddp(load: Load, cluster: Cluster) -> Cost:
    """Replicas. Gradients lie in buckets of P bytes that live as long as the weights; each is copied there
    when it is made, and averaged while the backward pass goes on. One process has no buckets."""
    ledger, several = Ledger(), cluster.ranks > 1
    size = load.weights * load.itemsize
    ledger.take(WEIGHTS, size)
    if load.momentum:
        ledger.take(MOMENTUM, size)
    if several:
        ledger.take(GRADIENTS, size)
    run_passes(load, cluster.ranks, Replica(load, ledger, buckets=several), ledger, gloo=cluster.gloo)
    traffic = norms(load, cluster)
    for bucket in buckets(load):
        traffic += all_reduce(bucket, cluster.everyone, cluster)
    work = products(load, cluster, data=cluster.ranks)
    seconds = work.forward + max(work.backward, traffic.seconds)
    return cost("ddp", ledger, traffic, multiplying=work.total, seconds=seconds)


class Replica(Holding):
    """All weights on this process, or its rows of them.

    Args:
        load: the network and the minibatch.
        ledger: where bytes are counted.
        buckets: whether gradients are copied into buckets.
        parts: processes that share each layer.
    """

    def __init__(self, load: Load, ledger: Ledger, *, buckets: bool, parts: int = 1) -> None:
        super().__init__(load, ledger, parts=parts)
        self._buckets = buckets

    def enter(self, k: int) -> None:
        """Autocast copies W_k to 16 bits and keeps the copy for the backward pass."""
        if self.load.half:
            self.ledger.take(NARROW, 2 * self.numbers[k - 1])

    def end_forward(self) -> None:
        """Autocast forgets its copies; those that no product has saved go."""
        if self.load.half and self.load.checkpointing:
            self.ledger.give(NARROW, 2 * sum(self.numbers))

    def gradient(self, k: int) -> None:
        """Into the buckets; beside them until the last of several microbatches."""
        ledger, numbers = self.ledger, self.numbers[k - 1]
        size = numbers * self.load.itemsize
        if self.load.half:
            ledger.give(NARROW, 2 * numbers)
            ledger.take(GRADIENT, size)
            ledger.give(GRADIENT, 2 * numbers)
        beside = not self._buckets or not (self.first and self.last)
        if self.first and beside:
            ledger.move(GRADIENT, GRADIENTS, size)
        else:
            ledger.give(GRADIENT, size)
        if self._buckets and beside and self.last:
            ledger.give(GRADIENTS, size)


def run_passes(
    load: Load, data: int, holding: Holding, ledger: Ledger, *, gloo: bool, parts: int = 1
) -> None:
    """The microbatches of a step. The third and later ones hold what the second holds."""
    samples = load.rows_of_a_rank(data) * load.widths[0] * load.itemsize
    ledger.take(SAMPLES, samples)
    one = Pass(load, load.rows(data), holding, ledger, gloo=gloo, parts=parts)
    count = min(load.accumulation, 3)
    for number in range(1, count + 1):
        one.run(first=number == 1, last=number == count)
    ledger.give(SAMPLES, samples)


def buckets(load: Load) -> Iterable[int]:
    """Bytes of DistributedDataParallel's buckets, from the last layer to the first."""
    filled, limit = 0, FIRST_BUCKET
    for size in reversed(load.sizes):
        filled += size * load.itemsize
        if filled >= limit:
            yield filled
            filled, limit = 0, BUCKET
    if filled:
        yield filled


def norms(load: Load, cluster: Cluster) -> Traffic:
    """The all-reduce of 2 l + 1 squared norms behind ξ, in float64."""
    return all_reduce(8 * (2 * load.depth + 1), cluster.everyone, cluster)
