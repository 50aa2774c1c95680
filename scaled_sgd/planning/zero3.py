"""``zero3``: flat parts of every layer, gathered as DeepSpeed prefetches and keeps them (0.17–0.19).

With each layer the next ones are gathered, until what is under way exceeds ``PREFETCH`` numbers; a layer
stays gathered until the backward pass where less than ``REUSE`` numbers lie between, or where prefetching has
passed its second use. Networks of less than a thousand million weights are thus gathered once a step, and
whole. The bucket of gradients lives as long as the run.
"""

from collections import deque
from itertools import accumulate

from scaled_sgd.planning.cluster import Cluster
from scaled_sgd.planning.cost import GRADIENTS, MASTERS, MOMENTUM, WEIGHTS, Cost, cost
from scaled_sgd.planning.holding import BUFFERS, GRADIENT, Holding
from scaled_sgd.planning.ledger import Ledger
from scaled_sgd.planning.load import Load
from scaled_sgd.planning.products import products
from scaled_sgd.planning.replicas import norms, run_passes
from scaled_sgd.planning.shards import GATHERED
from scaled_sgd.planning.traffic import Traffic, all_gather, reduce_scatter
from scaled_sgd.planning.zero import BUCKET, MASTER

PREFETCH, LIVE, REUSE = 50_000_000, 1_000_000_000, 1_000_000_000
"""``prefetch_bucket_size``, ``max_live_parameters`` and ``max_reuse_distance``, numbers."""


def zero3(load: Load, cluster: Cluster) -> Cost:
    """An even flat part of each layer, of its gradient, master and momentum."""
    ledger = Ledger()
    holding = Partitions(load, ledger, cluster)
    run_passes(load, cluster.ranks, holding, ledger, gloo=cluster.gloo)
    holding.step()
    scaling, weights = norms(load, cluster), (holding.gathers + holding.reductions).times(load.accumulation)
    work = products(load, cluster, data=cluster.ranks)
    seconds = work.total + weights.seconds if cluster.gloo else max(work.total, weights.seconds)
    return cost("zero3", ledger, scaling + weights, multiplying=work.total, seconds=seconds + scaling.seconds)


class Partitions(Holding):
    """What DeepSpeed does with weights and gradients in stage 3.

    Attributes:
        gathers: traffic of one microbatch's gathering.
        reductions: traffic of one microbatch's gradients.
    """

    def __init__(self, load: Load, ledger: Ledger, cluster: Cluster) -> None:
        super().__init__(load, ledger)
        self._cluster, self._narrow = cluster, load.signal_size
        self._shards = [-(-size // cluster.ranks) for size in load.sizes]
        own = sum(self._shards)
        ledger.take(WEIGHTS, self._narrow * own)
        ledger.take(GRADIENTS, self._narrow * own)
        ledger.take(MASTERS, MASTER * own)
        if load.momentum:
            ledger.take(MOMENTUM, MASTER * own)
        self._summed = MASTER if load.half else self._narrow
        ledger.take(BUFFERS, self._summed * (min(BUCKET, load.weights) if cluster.gloo else BUCKET))
        self._filled = 0
        self._in_bucket: list[int] = []
        self._behind = [0, *accumulate(reversed(load.sizes))]
        self.gathers = self.reductions = Traffic()

    def start_pass(self, *, first: bool, last: bool) -> None:
        """The root module prefetches."""
        super().start_pass(first=first, last=last)
        self.gathers = self.reductions = Traffic()
        depth = self.load.depth
        self._queue = deque([*range(1, depth + 1), *range(depth, 0, -1)])
        self._use = 0
        self._arriving: dict[int, list[int]] = {}
        self._there: set[int] = set()
        self._passed: set[int] = set()
        self._live = 0
        self.ledger.doing("prefetching")
        self._prefetch()

    def enter(self, k: int) -> None:
        """Fetch what is not there, wait for it, prefetch."""
        if k not in self._there and k not in self._arriving:
            self._gather([k])
        self._arrive(k)
        if self._queue and self._queue[0] == k and k not in self._passed:
            self._queue.popleft()
        self._prefetch()

    def leave(self, k: int, *, again: bool) -> None:
        """Give W_k up where its next use is far away."""
        if again:
            return
        between = 2 * self._behind[self.load.depth - k]
        if between >= REUSE and k not in self._passed:
            self._release(k)

    def enter_backward(self, k: int) -> None:
        """As in the forward pass."""
        self.enter(k)

    def gradient(self, k: int) -> None:
        """Copy it into the bucket, which is reduced first where it has no room."""
        ledger, numbers = self.ledger, self.numbers[k - 1]
        if self._filled and self._filled + numbers > BUCKET:
            self._reduce()
        if numbers <= BUCKET:
            ledger.give(GRADIENT, self._narrow * numbers)
        self._filled += numbers
        self._in_bucket.append(k)

    def leave_backward(self, k: int) -> None:
        """Give W_k up."""
        self._release(k)

    def end_backward(self) -> None:
        """Reduce the rest; then the first layer goes."""
        self.ledger.doing("gradients averaged")
        self._reduce()
        for k in sorted(self._there):
            self._release(k)

    def step(self) -> None:
        """ξ, the norm and the update, on this process's parts of the gradients."""
        ledger, largest, own = self.ledger, max(self._shards), sum(self._shards)
        ledger.doing("step")
        ledger.pass_through(BUFFERS, (2 * MASTER if self.load.half else MASTER) * largest)
        ledger.pass_through(BUFFERS, 8 * largest)
        ledger.take(BUFFERS, self._narrow * own)
        if self.load.half:
            ledger.pass_through(BUFFERS, MASTER * own)
        ledger.give(BUFFERS, self._narrow * own)

    def _prefetch(self) -> None:
        room = min(LIVE - self._live, PREFETCH)
        chosen: list[int] = []
        numbers = 0
        while self._queue and numbers < room:
            k = self._queue.popleft()
            if k in self._there or k in self._arriving or k in chosen:
                self._passed.add(k)
            else:
                chosen.append(k)
                numbers += self.numbers[k - 1]
        if chosen:
            self._gather(chosen)

    def _gather(self, layers: list[int]) -> None:
        """Start gathering; several layers in one buffer."""
        cluster, size = self._cluster, self._bytes(layers)
        self._live += sum(self.numbers[k - 1] for k in layers)
        for k in layers:
            self._arriving[k] = layers
        if cluster.ranks == 1:
            return
        self.gathers += all_gather(size, cluster.everyone, cluster)
        self.ledger.take(GATHERED, size)
        if cluster.gloo:
            self.ledger.pass_through(BUFFERS, size)

    def _arrive(self, k: int) -> None:
        """Copy out all layers of the buffer of W_k; the buffer goes when the last of them is used."""
        layers = self._arriving.pop(k, None)
        if layers is None:
            return
        several = self._cluster.ranks > 1 and len(layers) > 1
        if not self._there.issuperset(layers):
            self._there.update(layers)
            if several:
                self.ledger.take(GATHERED, self._bytes(layers))
        if several and not any(other in self._arriving for other in layers):
            self.ledger.give(GATHERED, self._bytes(layers))

    def _release(self, k: int) -> None:
        if k in self._there:
            self._there.remove(k)
            self._live -= self.numbers[k - 1]
            if self._cluster.ranks > 1:
                self.ledger.give(GATHERED, self._bytes([k]))

    def _reduce(self) -> None:
        """Sum the bucket through a flat copy and add this process's part to its own."""
        ledger, cluster = self.ledger, self._cluster
        size = self._summed * cluster.ranks * sum(self._shards[k - 1] for k in self._in_bucket)
        copied = len(self._in_bucket) > 1 or self._filled % cluster.ranks > 0
        if copied:
            ledger.take(BUFFERS, size)
        if cluster.gloo:
            ledger.pass_through(BUFFERS, size)
        if copied:
            ledger.give(BUFFERS, size)
        self.reductions += reduce_scatter(size, cluster.everyone, cluster)
        for k in self._in_bucket:
            if self.numbers[k - 1] > BUCKET:
                ledger.give(GRADIENT, self._narrow * self.numbers[k - 1])
        self._in_bucket, self._filled = [], 0

    def _bytes(self, layers: list[int]) -> int:
        return self._narrow * self._cluster.ranks * sum(self._shards[k - 1] for k in layers)
