"""``optim.fused_update``: steps without autograd and without gradients (:mod:`scaled_sgd.fused`).

Where every process holds all weights, a layer's factors (h_{k−1}, δ_k) of all samples are gathered, or its
gradient is summed where that is faster. Where processes hold rows, activations are gathered and the gradients
of activations summed, n (m_k + 2 m_{k−1}) numbers a layer.
"""

from collections.abc import Sequence
from itertools import pairwise

from scaled_sgd.fused import HELD
from scaled_sgd.planning.autograd import BUFFERS, GRADIENT, OUTPUTS, SAMPLES, SIGNALS
from scaled_sgd.planning.cluster import Cluster
from scaled_sgd.planning.cost import MOMENTUM, WEIGHTS, Cost, cost
from scaled_sgd.planning.ledger import Ledger
from scaled_sgd.planning.load import Load
from scaled_sgd.planning.traffic import Traffic, all_gather, all_reduce

FACTORS = "gathered factors"
_NUMBER = 8
"""Bytes of a sum over processes."""


def ddp_fused(load: Load, cluster: Cluster, factors: Sequence[bool] | None = None) -> Cost:
    """All weights on every process; of each layer move factors or the gradient, as chosen where not given."""
    ledger, rows = Ledger(), load.rows_of_a_rank(cluster.ranks)
    factors = choose_factors(load, cluster) if factors is None else factors
    _hold(load, ledger, load.weights)
    walk = _Fused(load, ledger, rows, cluster)
    ledger.take(SAMPLES, walk.whole(0))
    walk.forward()
    walk.backward(factors)
    ledger.give(SAMPLES, walk.whole(0))
    traffic, seconds = all_reduce(_NUMBER, cluster.everyone, cluster), 0.0
    for k, by_factors in enumerate(factors, start=1):
        moved = _layer_traffic(load, cluster, k, by_factors=by_factors)
        traffic += moved
        flowing = _product(load, cluster, k, rows) if k > 1 else 0.0
        # Factors are gathered while the product of δ_k and W_k goes on.
        seconds += max(flowing, moved.seconds) if by_factors else flowing + moved.seconds
        seconds += _product(load, cluster, k, rows)
        seconds += _product(load, cluster, k, load.batch if by_factors else rows)
    multiplying = sum(
        _product(load, cluster, k, (2 if k > 1 else 1) * rows + (load.batch if by_factors else rows))
        for k, by_factors in enumerate(factors, start=1)
    )
    moving = tuple(factors) if cluster.ranks > 1 else ()
    return cost("ddp+fused", ledger, traffic, multiplying=multiplying, seconds=seconds, factors=moving)


def fsdp2_fused(load: Load, cluster: Cluster) -> Cost:
    """Some rows of each weight on every process, and all samples on all of them."""
    ledger, ranks = Ledger(), cluster.ranks
    _hold(load, ledger, sum(-(-rows // ranks) * fan_in for fan_in, rows in pairwise(load.widths)))
    walk = _Fused(load, ledger, load.batch, cluster, parts=ranks)
    own = load.rows_of_a_rank(ranks) * load.widths[0] * load.itemsize
    ledger.take(SAMPLES, own)
    if ranks > 1:
        ledger.take(SAMPLES, ranks * own)
        if cluster.gloo:
            ledger.pass_through(BUFFERS, ranks * own)
    walk.forward()
    walk.backward([False] * load.depth)
    ledger.give(SAMPLES, own * (1 + ranks) if ranks > 1 else own)
    everyone = cluster.everyone
    traffic = all_gather(ranks * own, everyone, cluster)
    traffic += all_reduce(_NUMBER, everyone, cluster).times(load.depth)
    for k in range(1, load.depth + 1):
        traffic += all_gather(ranks * walk.own(k), everyone, cluster)
        if k > 1:
            traffic += all_reduce(walk.whole(k - 1), everyone, cluster)
    multiplying = sum(
        _product(load, cluster, k, (3 if k > 1 else 2) * load.batch / ranks) for k in range(1, load.depth + 1)
    )
    return cost(
        "fsdp2+fused", ledger, traffic, multiplying=multiplying, seconds=multiplying + traffic.seconds
    )


def choose_factors(load: Load, cluster: Cluster) -> list[bool]:
    """For each layer, whether moving its factors takes less time than its gradient."""
    if load.exchange != "auto" or cluster.ranks == 1:
        return [load.exchange == "factors" and cluster.ranks > 1] * load.depth
    rows = load.batch / cluster.ranks
    return [
        _layer_traffic(load, cluster, k, by_factors=True).seconds + _product(load, cluster, k, load.batch)
        < _layer_traffic(load, cluster, k, by_factors=False).seconds + _product(load, cluster, k, rows)
        for k in range(1, load.depth + 1)
    ]


def _layer_traffic(load: Load, cluster: Cluster, k: int, *, by_factors: bool) -> Traffic:
    everyone, size = cluster.everyone, load.itemsize
    if not by_factors:
        squares = all_reduce(2 * _NUMBER, everyone, cluster)
        return all_reduce(load.sizes[k - 1] * size, everyone, cluster) + squares
    rows = cluster.ranks * load.rows_of_a_rank(cluster.ranks)
    widths = (load.widths[k - 1], load.widths[k])
    moved = [all_gather(rows * width * size, everyone, cluster) for width in widths]
    return moved[0] + moved[1]


def _product(load: Load, cluster: Cluster, k: int, rows: float) -> float:
    return 2 * rows * load.sizes[k - 1] / cluster.rate


def _hold(load: Load, ledger: Ledger, numbers: int) -> None:
    ledger.take(WEIGHTS, numbers * load.itemsize)
    if load.momentum:
        ledger.take(MOMENTUM, numbers * load.itemsize)


class _Fused:
    """Signals of a fused step.

    What a layer's update needs lives until the next layer's is there; in small steps, and where the whole
    gradient is limited, until all layers' are.
    """

    def __init__(self, load: Load, ledger: Ledger, rows: int, cluster: Cluster, *, parts: int = 1) -> None:
        self._load, self._ledger, self._rows, self._parts = load, ledger, rows, parts
        self._gloo, self._several = cluster.gloo, cluster.ranks // parts
        phi = load.activation
        self._gate_apart = not (phi.positive_slope > 0 and phi.negative_slope >= 0)

    def whole(self, k: int) -> int:
        """Bytes of h_k, all columns."""
        return self._rows * self._load.widths[k] * self._load.itemsize

    def own(self, k: int) -> int:
        """Bytes of this process's columns."""
        return self._rows * -(-self._load.widths[k] // self._parts) * self._load.itemsize

    def forward(self) -> None:
        """h_0..h_{l−1} and f."""
        ledger, depth = self._ledger, self._load.depth
        for k in range(1, depth + 1):
            ledger.doing(f"forward pass, layer {k}")
            if self._parts > 1:
                self._gather(k)
            else:
                ledger.take(SIGNALS, self.whole(k))
            if k > 1 and not self._gate_apart:
                ledger.give(SIGNALS, self.whole(k - 1))  # z_{k−1}
            if k < depth:
                ledger.take(SIGNALS, self.whole(k))
                if self._load.activation.positive_slope not in (0, 1):
                    ledger.pass_through(SIGNALS, self.whole(k))
        ledger.move(SIGNALS, OUTPUTS, self.whole(depth))

    def backward(self, factors: Sequence[bool]) -> None:
        """From f to the update of W_1."""
        ledger, load, depth = self._ledger, self._load, self._load.depth
        ledger.doing("loss")
        ledger.take(OUTPUTS, self.whole(depth))
        if load.loss == "mse":
            ledger.pass_through(OUTPUTS, self.whole(depth))
        at_once = load.limited or load.batch * sum(load.widths[1:]) <= HELD
        if self._parts > 1:
            ledger.take(SIGNALS, self.own(depth))
        waiting: list[tuple[str, int]] = []
        for k in range(depth, 0, -1):
            ledger.doing(f"backward pass, layer {k}")
            needed = [] if k == depth and self._parts == 1 else [(SIGNALS, self.own(k))]
            if factors[k - 1]:
                gathered = self._several * (self.whole(k) + self.whole(k - 1))
                needed.append((FACTORS, gathered))
                ledger.take(FACTORS, gathered)
                if self._gloo:
                    ledger.pass_through(BUFFERS, gathered)
                if self._several * self._rows != load.batch:
                    joined = load.batch * (load.widths[k] + load.widths[k - 1]) * load.itemsize
                    needed.append((FACTORS, joined))
                    ledger.take(FACTORS, joined)
            if k > 1:
                needed.append((SIGNALS, self.whole(k - 1)))
                ledger.take(BUFFERS, self.whole(k - 1))
                ledger.take(SIGNALS, self.own(k - 1))
                ledger.give(BUFFERS, self.whole(k - 1))
                if self._gate_apart:
                    ledger.give(SIGNALS, self.whole(k - 1))
            if not factors[k - 1] and self._several > 1:
                size = load.sizes[k - 1] * load.itemsize
                needed.append((GRADIENT, size))
                ledger.take(GRADIENT, size)
            if not at_once:
                self._give(waiting)
                waiting = []
            waiting += needed
        self._give(waiting)
        ledger.give(OUTPUTS, 2 * self.whole(depth))

    def _give(self, needed: list[tuple[str, int]]) -> None:
        for part, count in needed:
            self._ledger.give(part, count)

    def _gather(self, k: int) -> None:
        """z_k whole from this process's columns."""
        ledger, own, whole = self._ledger, self.own(k), self.whole(k)
        ledger.take(BUFFERS, (2 + self._parts) * own)
        if self._gloo:
            ledger.pass_through(BUFFERS, self._parts * own)
        if self._parts * own != whole:
            ledger.take(BUFFERS, whole)
            ledger.give(BUFFERS, (1 + self._parts) * own)
            ledger.take(SIGNALS, whole)
            ledger.give(BUFFERS, whole)
        else:
            ledger.give(BUFFERS, own)
            ledger.take(SIGNALS, whole)
            ledger.give(BUFFERS, self._parts * own)
        ledger.give(BUFFERS, own)
