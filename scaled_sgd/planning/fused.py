"""``optim.fused_update``: steps without autograd and without gradients (:mod:`scaled_sgd.steps.step`).

Where every process holds all weights, a layer's factors (h_{k−1}, δ_k) of all samples are gathered, or its
gradient is summed where that is faster. Where processes hold rows, activations are gathered and the gradients
of activations summed, n (m_k + 2 m_{k−1}) numbers a layer.
"""

from collections.abc import Sequence
from itertools import pairwise

from scaled_sgd.planning.cluster import Cluster
from scaled_sgd.planning.cost import MOMENTUM, WEIGHTS, Cost, cost
from scaled_sgd.planning.fused_pass import FusedPass
from scaled_sgd.planning.holding import BUFFERS, SAMPLES
from scaled_sgd.planning.ledger import Ledger
from scaled_sgd.planning.load import Load
from scaled_sgd.planning.traffic import Traffic, all_gather, all_reduce

_NUMBER = 8
"""Bytes of a sum over processes."""


def ddp_fused(load: Load, cluster: Cluster, factors: Sequence[bool] | None = None) -> Cost:
    """All weights on every process; of each layer move factors or the gradient, as chosen where not given."""
    ledger, rows = Ledger(), load.rows_of_a_rank(cluster.ranks)
    factors = choose_factors(load, cluster) if factors is None else factors
    _hold(load, ledger, load.weights)
    walk = FusedPass(load, ledger, rows, cluster)
    ledger.take(SAMPLES, walk.whole(0))
    walk.forward()
    walk.backward(factors)
    ledger.give(SAMPLES, walk.whole(0))
    traffic = all_reduce(_NUMBER, cluster.everyone, cluster)
    seconds = traffic.seconds
    for k, by_factors in enumerate(factors, start=1):
        moved = layer_traffic(load, cluster, k, by_factors=by_factors)
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
    walk = FusedPass(load, ledger, load.batch, cluster, parts=ranks)
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
        layer_traffic(load, cluster, k, by_factors=True).seconds + _product(load, cluster, k, load.batch)
        < layer_traffic(load, cluster, k, by_factors=False).seconds + _product(load, cluster, k, rows)
        for k in range(1, load.depth + 1)
    ]


def layer_traffic(load: Load, cluster: Cluster, k: int, *, by_factors: bool) -> Traffic:
    """What moves of layer k between processes that hold all weights: its factors or its gradient."""
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
