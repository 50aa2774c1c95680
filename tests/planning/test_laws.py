"""What must hold of any plan, whatever the network."""

import dataclasses
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaled_sgd.core.parameterization import Activation
from scaled_sgd.planning import PLANNED, Cluster, Load, advise, fits, nominal, possible, predict
from scaled_sgd.planning.cluster import Group
from scaled_sgd.planning.fused import choose_factors
from scaled_sgd.planning.ledger import Ledger
from scaled_sgd.planning.traffic import all_gather, all_reduce, reduce_scatter
from scaled_sgd.planning.units import duration, operations, parse_duration, parse_size, size, speed

NORMS = 8
"""Bytes of a number of the all-reduce behind ξ."""


def cluster(ranks=4, per_machine=None, *, device="cpu", **rates) -> Cluster:
    return dataclasses.replace(
        nominal(device), ranks=ranks, per_machine=ranks if per_machine is None else per_machine, **rates
    )


loads = st.builds(
    Load,
    widths=st.lists(st.integers(1, 300), min_size=2, max_size=7).map(tuple),
    batch=st.integers(1, 500),
    activation=st.sampled_from(["relu", "abs", "linear"]).map(Activation.of),
    parameterization=st.sampled_from(["nup", "sp", "mup"]),
    half=st.booleans(),
    momentum=st.booleans(),
    accumulation=st.integers(1, 4),
    checkpointing=st.booleans(),
    loss=st.sampled_from(["cross_entropy", "mse"]),
    limited=st.booleans(),
)
worlds = st.builds(cluster, st.integers(1, 9), st.just(None), device=st.sampled_from(["cpu", "cuda"]))


def plans(load, where):
    parts = max(d for d in range(1, where.ranks + 1) if where.ranks % d == 0 and d < max(where.ranks, 2))
    return [predict(name, load, where, parts=parts) for name in possible(load, where, parts=parts)]


@given(loads, worlds)
def test_every_account_closes(load, where):
    """Nothing is given back that was not taken, and what is left is weights and what they need."""
    for cost in plans(load, where):
        left = set(cost.held) - {"weights", "gradients", "momentum", "masters"}
        assert left <= ({"buffers"} if cost.strategy == "zero3" else set()), cost
        assert cost.peak_bytes >= cost.held_bytes
        assert cost.seconds >= cost.multiplying * (1 - 1e-12)


@given(loads, st.sampled_from(["cpu", "cuda"]), st.integers(2, 9))
def test_every_strategy_waits_for_one_all_reduce_at_least(load, device, ranks):
    """Of what ξ or the loss needs."""
    slow = cluster(ranks, device=device, latency=10.0)
    for cost in plans(load, slow):
        assert cost.seconds >= all_reduce(NORMS, slow.everyone, slow).seconds, cost.strategy


def test_where_nothing_but_waiting_counts_all_collectives_are_waited_for():
    slow = cluster(4, device="cuda", latency=10.0)
    for cost in plans(Load((64,) * 4, 4), slow):
        assert cost.seconds == pytest.approx(cost.traffic.seconds, abs=1e-3), cost.strategy


@given(loads, st.sampled_from(["cpu", "cuda"]))
def test_one_process_sends_nothing(load, device):
    for cost in plans(load, cluster(1, device=device)):
        assert cost.traffic.sent == cost.traffic.collectives == 0


@given(loads, worlds)
def test_a_step_holds_its_weights_and_its_largest_layer(load, where):
    largest = max(load.sizes)
    for cost in plans(load, where):
        narrow = 2 if load.half and "zero" in cost.strategy else load.itemsize
        assert cost.held["weights"] >= narrow * load.weights // where.ranks
        if cost.strategy == "fsdp2":
            assert cost.peak_bytes >= largest * load.signal_size
        if cost.strategy in ("ddp", "ddp+fused", "zero1", "zero2"):
            assert cost.peak["weights"] == narrow * load.weights
        assert ("momentum" in cost.held) == load.momentum


@given(loads, st.integers(2, 9))
def test_doubling_the_weights_doubles_the_traffic_of_replicas(load, ranks):
    """Two networks' worth of layers send twice as much, the squared norms behind ξ aside."""
    where = cluster(ranks)

    def sent(widths):
        doubled = dataclasses.replace(load, widths=widths)
        return predict("ddp", doubled, where).traffic.sent - 2 * (ranks - 1) / ranks * NORMS * (
            2 * doubled.depth + 1
        )

    once, twice = load.widths, tuple(2 * width if k % 2 else width for k, width in enumerate(load.widths))
    assert sent(twice) == pytest.approx(2 * sent(once))


@given(loads)
def test_shards_of_many_processes_hold_little(load):
    many = cluster(4096, 8, device="cuda")
    rows = sum(-(-rows // 4096) * fan_in for fan_in, rows in pairwise(load.widths))
    for name in ("fsdp2", "tensor"):
        held = predict(name, load, many).held
        assert held["weights"] == load.itemsize * rows


def test_thousands_of_processes_answer_at_once():
    load = Load(tuple(range(1000, 3000, 10)), 65536, momentum=True)
    began = time.process_time()
    found = [predict(name, load, cluster(16384, 8), parts=8) for name in PLANNED]
    assert time.process_time() - began < 5
    assert all(cost.traffic.across > 0 for cost in found)


@given(st.integers(1, 4000), st.integers(1, 16), st.floats(0, 1e12))
def test_what_crosses_machines_is_one_share_in_each(size_, per_machine, total):
    """A flat ring: of all sending processes one in each machine sends to the next one."""
    where = cluster(size_, min(per_machine, size_))
    moved = all_gather(total, where.everyone, where)
    assert moved.sent == pytest.approx((size_ - 1) / size_ * total)
    machines = size_ > per_machine
    assert moved.across == pytest.approx(moved.sent / min(per_machine, size_) if machines else 0)
    assert all_reduce(total, where.everyone, where).sent == pytest.approx(2 * moved.sent)


def test_gloo_scatters_by_an_all_reduce():
    everyone = Group(4, 4)
    assert reduce_scatter(100, everyone, cluster(4)).sent == 150
    assert reduce_scatter(100, everyone, cluster(4, device="cuda")).sent == 75


@pytest.mark.parametrize(("rows", "factors"), [(8, True), (65536, False)])
def test_factors_move_where_minibatches_are_small(rows, factors):
    load = Load((2048,) * 5, rows)
    assert choose_factors(load, cluster(2)) == [factors] * 4
    assert choose_factors(dataclasses.replace(load, exchange="gradients"), cluster(2)) == [False] * 4


def test_no_gradient_is_held_where_updates_are_fused():
    load = Load((512,) * 9, 4, momentum=True)
    weights = 4 * load.weights
    for name in ("ddp+fused", "fsdp2+fused"):
        cost = predict(name, load, cluster(1))
        assert cost.held == {"weights": weights, "momentum": weights}
        assert cost.peak_bytes < 1.02 * 2 * weights


def test_the_fastest_that_fits_is_taken():
    load = Load((4096,) * 12, 64)
    roomy, narrow, tiny = (cluster(4, memory=gib * 2**30) for gib in (64, 0.8, 0.001))
    names = ("ddp", "fsdp2", "tensor")
    costs = [predict(name, load, roomy) for name in names]
    fastest = min(costs, key=lambda cost: cost.seconds)
    assert advise(costs, roomy).cost is fastest
    assert not fits(costs[0], narrow)
    chosen = advise(costs, narrow)
    assert chosen.cost is not None
    assert fits(chosen.cost, narrow)
    assert advise(costs, tiny).cost is None
    assert advise(costs, tiny).reason.startswith("none fits: tensor needs least")


def test_of_equally_fast_ones_the_simplest_is_taken():
    costs = [predict(name, Load((1024,) * 4, 64), cluster(1)) for name in PLANNED[:5]]
    assert advise(costs, cluster(1)).cost is costs[0]
    slower = dataclasses.replace(costs[0], seconds=2 * costs[0].seconds)
    assert advise([slower, *costs[1:]], cluster(1)).cost is costs[1]


def test_steps_too_short_to_tell_apart_take_the_simplest():
    small = Load((64, 32, 128, 288, 512, 800, 10), 100, Activation.of("abs"), "nup")
    advice = advise(plans(small, cluster(8, device="cuda")), cluster(8, device="cuda"))
    assert advice.cost.strategy == "ddp"
    assert "under 1 ms, and simplest" in advice.reason


def test_products_hide_traffic_where_strategies_overlap():
    slow, fast = cluster(4, inside=1e6), cluster(4, inside=1e15, latency=1e-12)
    load = Load((512,) * 5, 64)
    hidden = predict("ddp", load, fast)
    assert hidden.seconds == pytest.approx(hidden.multiplying)
    bound = predict("ddp", load, slow)
    forward = bound.multiplying * 4 / 11
    assert bound.seconds == pytest.approx(forward + bound.traffic.seconds)
    waiting = predict("fsdp2", load, slow)
    assert waiting.seconds == pytest.approx(waiting.multiplying + waiting.traffic.seconds, rel=1e-3)


def test_an_account_that_does_not_close_is_noticed():
    ledger = Ledger()
    ledger.take("weights", 5)
    with pytest.raises(ValueError, match="weights: 6 bytes given back of 5"):
        ledger.give("weights", 6)


@given(st.floats(1e-3, 1e17))
def test_sizes_read_as_they_are_written(count):
    assert parse_size("k", size(count)) == pytest.approx(count, rel=6e-3)


def test_units_are_those_of_people():
    assert size(80 * 2**30) == "80 GiB"
    assert (duration(0.0123), duration(2.5), duration(4e-6)) == ("12.3 ms", "2.5 s", "4 µs")
    assert (speed(1.5e11), operations(6e13)) == ("150 GB/s", "60 TFLOP/s")
    assert parse_size("k", "25 GB") == 25e9
    assert parse_duration("k", "10us") == pytest.approx(1e-5)
