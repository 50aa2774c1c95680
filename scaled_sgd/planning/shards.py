"""``fsdp2``, ``tensor`` and ``fsdp2+tensor``: some rows of each weight on every process."""

from itertools import pairwise

from scaled_sgd.planning.cluster import Cluster, Group
from scaled_sgd.planning.cost import GRADIENTS, MOMENTUM, WEIGHTS, Cost, cost
from scaled_sgd.planning.holding import BUFFERS, GRADIENT, Holding
from scaled_sgd.planning.ledger import Ledger
from scaled_sgd.planning.load import Load
from scaled_sgd.planning.products import products
from scaled_sgd.planning.replicas import Replica, norms, run_passes
from scaled_sgd.planning.traffic import Traffic, all_gather, reduce_scatter

GATHERED = "gathered layers"


def tensor(load: Load, cluster: Cluster) -> Cost:
    """⌈m_k / W⌉ rows of each weight, and activations that are gathered before a layer."""
    ledger, parts = Ledger(), cluster.ranks
    held = load.itemsize * sum(-(-rows // parts) * fan_in for fan_in, rows in pairwise(load.widths))
    ledger.take(WEIGHTS, held)
    if load.momentum:
        ledger.take(MOMENTUM, held)
    holding = Replica(load, ledger, buckets=False, parts=parts)
    run_passes(load, 1, holding, ledger, parts=parts, gloo=cluster.gloo)
    traffic = norms(load, cluster) + signal_traffic(load, cluster, cluster.everyone, data=1)
    work = products(load, cluster, data=1, parts=parts)
    seconds = work.total + traffic.seconds
    return cost("tensor", ledger, traffic, multiplying=work.total, seconds=seconds)


def fsdp2(load: Load, cluster: Cluster) -> Cost:
    """An even part of each layer, gathered layer by layer, forward and again backward."""
    return _fsdp2("fsdp2", load, cluster, parts=1)


def fsdp2_tensor(load: Load, cluster: Cluster, parts: int) -> Cost:
    """As ``fsdp2`` for ⌈m_k / parts⌉ rows of each layer, which ``parts`` neighbouring processes share."""
    return _fsdp2("fsdp2+tensor", load, cluster, parts=parts)


def _fsdp2(name: str, load: Load, cluster: Cluster, *, parts: int) -> Cost:
    ledger, data = Ledger(), cluster.ranks // parts
    holding = Shards(load, ledger, data=data, parts=parts, gloo=cluster.gloo)
    run_passes(load, data, holding, ledger, parts=parts, gloo=cluster.gloo)
    group = cluster.apart(parts)
    gathers, scatters = Traffic(), Traffic()
    narrow = 2 if load.half else load.itemsize
    for size in holding.sizes:
        gathers += all_gather(size * narrow, group, cluster)
        scatters += reduce_scatter(size * load.itemsize, group, cluster)
    forth, back = (traffic.times(load.accumulation) for traffic in (gathers, gathers + scatters))
    signals = signal_traffic(load, cluster, cluster.beside(parts), data=data)
    work = products(load, cluster, data=data, parts=parts)
    if cluster.gloo:
        seconds = work.total + forth.seconds + back.seconds
    else:
        seconds = max(work.forward, forth.seconds) + max(work.backward, back.seconds)
    last = norms(load, cluster) + signals
    return cost(name, ledger, last + forth + back, multiplying=work.total, seconds=seconds + last.seconds)


def signal_traffic(load: Load, cluster: Cluster, group: Group, *, data: int) -> Traffic:
    """h_1..h_{l−1} and f gathered, the gradients of h_1..h_{l−1} summed and cut, each microbatch."""
    rows, traffic = load.rows(data), Traffic()
    for k, width in enumerate(load.widths[1:], start=1):
        columns = group.size * -(-width // group.size)
        size = rows * columns * load.signal_size
        forth = all_gather(size, group, cluster)
        if k == load.depth:
            traffic += forth
        else:
            traffic += forth.times(2 if load.checkpointing else 1) + reduce_scatter(size, group, cluster)
    return traffic.times(load.accumulation)


class Shards(Holding):
    """FSDP2's, over ``data`` processes, of layers cut into ``parts`` before.

    A gathered layer is copied out of the buffer that it came in. Forward, the buffer lives until the next
    layer is gathered; backward, the next layer's is filled while this one is used. A gradient is copied to
    the input of its reduce-scatter, which lives until the next one's.
    """

    def __init__(self, load: Load, ledger: Ledger, *, data: int, parts: int, gloo: bool) -> None:
        super().__init__(load, ledger, parts=parts)
        self._data, self._gloo = data, gloo and data > 1
        self._rows = [-(-rows // parts) for rows in load.widths[1:]]
        self._even = [rows % data == 0 for rows in self._rows]
        self.sizes = [
            data * -(-rows // data) * fan_in for rows, fan_in in zip(self._rows, load.widths, strict=False)
        ]
        self._narrow = 2 if load.half else load.itemsize
        held = sum(self.sizes) // data * load.itemsize
        ledger.take(WEIGHTS, held)
        if load.momentum:
            ledger.take(MOMENTUM, held)
        self._buffer = self._reducing = 0
        self._ahead: int | None = None
        self._open: set[int] = set()

    def enter(self, k: int) -> None:
        """Gather W_k into a buffer and copy it out."""
        if k in self._open:
            return
        fetched = self._arrived(k)
        self.ledger.give(BUFFERS, self._buffer)
        self._copy_out(k)
        self._buffer = fetched

    def leave(self, k: int, *, again: bool) -> None:
        """Give W_k up, or the buffer alone: a layer that runs again is the root of a pass of its own."""
        if again:
            self.end_forward()
        else:
            self._close(k)

    def end_forward(self) -> None:
        """The last buffer goes."""
        self.ledger.give(BUFFERS, self._buffer)
        self._buffer = 0

    def enter_backward(self, k: int) -> None:
        """Copy W_k out of what was gathered ahead, and gather the next layer ahead."""
        if k not in self._open:
            fetched = self._arrived(k)
            self._copy_out(k)
            self.ledger.give(BUFFERS, fetched)
        if k > 1 and k - 1 not in self._open:
            self._fetch(k - 1)
            self._ahead = k - 1

    def leave_backward(self, k: int) -> None:
        """Reduce and scatter."""
        ledger, load = self.ledger, self.load
        self._close(k)
        ledger.give(BUFFERS, self._reducing)
        self._reducing = self.sizes[k - 1] * load.itemsize
        ledger.take(BUFFERS, self._reducing)
        made = self.numbers[k - 1] * load.signal_size
        if not self._even[k - 1]:
            ledger.pass_through(BUFFERS, self._reducing)
        if self._data == 1:
            ledger.give(GRADIENT, made)
        own = self._reducing // self._data
        ledger.take(GRADIENTS, own)
        if self._gloo:
            ledger.pass_through(BUFFERS, self._reducing)
        if self._data > 1:  # a variable of FSDP2's still refers to it
            ledger.give(GRADIENT, made)
        if not self.first:
            ledger.give(GRADIENTS, own)

    def end_backward(self) -> None:
        """The first layer's, whose input has no gradient, and the last buffer."""
        self.leave_backward(1)
        self.ledger.give(BUFFERS, self._reducing)
        self._reducing = 0

    def _arrived(self, k: int) -> int:
        """Bytes of the buffer that W_k is in, filled now unless it was before."""
        if self._ahead != k:
            return self._fetch(k)
        self._ahead = None
        return self._buffer_bytes(k)

    def _buffer_bytes(self, k: int) -> int:
        return 0 if self._data == 1 else self.sizes[k - 1] * self._narrow

    def _fetch(self, k: int) -> int:
        """Fill a buffer with W_k; its bytes. One process needs none."""
        count = self._buffer_bytes(k)
        if not count:
            return 0
        if self.load.half:
            self.ledger.take(BUFFERS, count // self._data)
        self.ledger.take(BUFFERS, count)
        if self._gloo:
            self.ledger.pass_through(BUFFERS, count)
        if self.load.half:
            self.ledger.give(BUFFERS, count // self._data)
        return count

    def _copy_out(self, k: int) -> None:
        self.ledger.take(GATHERED, self.sizes[k - 1] * self._narrow)
        self._open.add(k)

    def _close(self, k: int) -> None:
        if k in self._open:
            self._open.remove(k)
            self.ledger.give(GATHERED, self.sizes[k - 1] * self._narrow)
