"""What must hold of any plan, whatever the network."""

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaled_sgd.core.activations import Activation
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning import COSTS, Hardware, Workload, advise, fits, nominal, predict, rows
from scaled_sgd.planning.hardware import Group
from scaled_sgd.planning.replicas import exchanged
from scaled_sgd.planning.traffic import all_gather, all_reduce, reduce_scatter
from scaled_sgd.planning.units import DURATIONS, SIZES, duration, operations, parse, size, speed

NORMS = 8
"""Bytes of a number of the all-reduce behind ξ."""


def hardware(ranks=4, per_machine=None, *, device="cpu", **rates) -> Hardware:
    return dataclasses.replace(
        nominal(device), ranks=ranks, per_machine=ranks if per_machine is None else per_machine, **rates
    )


works = st.builds(
    Workload,
    widths=st.lists(st.integers(1, 300), min_size=2, max_size=7).map(tuple),
    batch=st.integers(1, 500),
    activation=st.sampled_from(["relu", "abs", "linear", "tanh", "gelu"]).map(Activation.of),
    parameterization=st.sampled_from(["nup", "sp", "mup"]),
    precision=st.sampled_from(["no", "bf16"]),
    states=st.integers(0, 2),
    accumulation=st.integers(1, 4),
    checkpointing=st.booleans(),
    loss=st.sampled_from(["cross_entropy", "mse"]),
    limited=st.booleans(),
)
places = st.builds(hardware, st.integers(1, 9), st.just(None), device=st.sampled_from(["cpu", "cuda"]))


def plans(work, where):
    parts = max(d for d in range(1, where.ranks + 1) if where.ranks % d == 0 and d < max(where.ranks, 2))
    exact = not work.checkpointing and work.accumulation == 1
    return [
        predict(name, work, where, fused=fused, parts=parts)
        for name, fused in rows(where, parts=parts)
        if exact or not fused
    ]


def test_every_strategy_has_a_cost_and_fused_ones_where_steps_can_be():
    assert set(COSTS) == set(STRATEGIES)
    for can in STRATEGIES.entries:
        assert (COSTS[can.name].fused is not None) is can.fused, can.name


def test_a_strategy_without_a_cost_is_not_planned():
    removed = COSTS["tensor"]
    COSTS.remove("tensor")
    try:
        assert "tensor" not in [name for name, _ in rows(hardware(4), parts=2)]
    finally:
        COSTS.add("tensor", removed)


@given(works, places)
def test_a_step_takes_what_is_held_and_its_products(work, where):
    for cost in plans(work, where):
        assert cost.peak_bytes >= cost.held_bytes > 0, cost
        assert cost.moment
        assert cost.seconds >= cost.multiplying * (1 - 1e-12)


@given(works, st.sampled_from(["cpu", "cuda"]), st.integers(2, 9))
def test_every_strategy_waits_for_one_all_reduce_at_least(work, device, ranks):
    """Of what ξ or the loss needs."""
    slow = hardware(ranks, device=device, latency=10.0)
    for cost in plans(work, slow):
        assert cost.seconds >= all_reduce(NORMS, slow.everyone, slow).seconds, cost.strategy


def test_where_nothing_but_waiting_counts_all_collectives_are_waited_for():
    slow = hardware(4, device="cuda", latency=10.0)
    for cost in plans(Workload((64,) * 4, 4), slow):
        assert cost.seconds == pytest.approx(cost.traffic.seconds, abs=1e-3), cost.strategy


@given(works, st.sampled_from(["cpu", "cuda"]))
def test_one_process_sends_nothing(work, device):
    for cost in plans(work, hardware(1, device=device)):
        assert cost.traffic.sent == cost.traffic.collectives == 0


@given(works, places)
def test_a_step_holds_its_weights_and_its_largest_layer(work, where):
    largest = max(work.sizes)
    for cost in plans(work, where):
        narrow = 2 if work.half and "zero" in cost.strategy else work.itemsize
        weights = narrow * work.weights
        whole = cost.strategy in ("zero1", "zero2") or cost.strategy == "ddp"
        assert cost.held_bytes >= (weights if whole else weights // where.ranks)
        if cost.label == "fsdp2":
            assert cost.peak_bytes >= largest * work.signal_size


@given(works, places)
def test_what_an_optimizer_keeps_is_held_beside_the_weights(work, where):
    without, with_it = (plans(dataclasses.replace(work, states=m), where) for m in (0, 2))
    for less, more in zip(without, with_it, strict=True):
        assert more.held_bytes - less.held_bytes == more.peak_bytes - less.peak_bytes
        assert more.held_bytes - less.held_bytes >= 2 * 4 * work.weights // where.ranks


@given(works, places)
def test_more_samples_never_take_less(work, where):
    larger = dataclasses.replace(work, batch=2 * work.batch, exchange="gradients")
    for less, more in zip(
        plans(dataclasses.replace(work, exchange="gradients"), where), plans(larger, where), strict=True
    ):
        if not less.fused:  # a small fused step holds all layers' factors at once
            assert more.peak_bytes >= less.peak_bytes


@given(works, st.integers(2, 9))
def test_doubling_the_weights_doubles_the_traffic_of_replicas(work, ranks):
    """Two networks' worth of layers send twice as much, the squared norms behind ξ aside."""
    where = hardware(ranks)

    def sent(widths):
        doubled = dataclasses.replace(work, widths=widths)
        return predict("ddp", doubled, where).traffic.sent - 2 * (ranks - 1) / ranks * NORMS * (
            2 * doubled.depth + 1
        )

    once, twice = work.widths, tuple(2 * width if k % 2 else width for k, width in enumerate(work.widths))
    assert sent(twice) == pytest.approx(2 * sent(once))


@given(works)
def test_shards_of_many_processes_hold_little(work):
    many = hardware(4096, 8, device="cuda")
    numbers = sum(-(-rows // 4096) * fan_in for fan_in, rows in pairwise(work.widths))
    for name in ("fsdp2", "tensor"):
        weights_and_gradients = work.itemsize * numbers * (2 + work.states)
        assert predict(name, work, many).held_bytes == weights_and_gradients


def test_thousands_of_processes_and_hundreds_of_layers_are_planned():
    work = Workload(tuple(range(1000, 3000, 10)), 65536, states=1)
    found = plans(work, hardware(16384, 8))
    assert len(found) == len(STRATEGIES.names) + 2
    assert all(cost.traffic.across > 0 for cost in found)


@given(st.integers(1, 4000), st.integers(1, 16), st.floats(0, 1e12))
def test_what_crosses_machines_is_one_share_in_each(size_, per_machine, total):
    """A flat ring: of all sending processes one in each machine sends to the next one."""
    where = hardware(size_, min(per_machine, size_))
    moved = all_gather(total, where.everyone, where)
    assert moved.sent == pytest.approx((size_ - 1) / size_ * total)
    machines = size_ > per_machine
    assert moved.across == pytest.approx(moved.sent / min(per_machine, size_) if machines else 0)
    assert all_reduce(total, where.everyone, where).sent == pytest.approx(2 * moved.sent)


def test_gloo_scatters_by_an_all_reduce():
    everyone = Group(4, 4)
    assert reduce_scatter(100, everyone, hardware(4)).sent == 150
    assert reduce_scatter(100, everyone, hardware(4, device="cuda")).sent == 75


@pytest.mark.parametrize(("rows", "factors"), [(8, True), (65536, False)])
def test_factors_move_where_minibatches_are_small(rows, factors):
    work = Workload((2048,) * 5, rows)
    assert exchanged(work, hardware(2)) == [factors] * 4
    assert exchanged(dataclasses.replace(work, exchange="gradients"), hardware(2)) == [False] * 4


def test_no_gradient_is_held_where_updates_are_fused():
    work = Workload((512,) * 9, 4, states=1)
    weights = 4 * work.weights
    for name in ("ddp", "fsdp2"):
        cost = predict(name, work, hardware(1), fused=True)
        assert cost.held_bytes == 2 * weights
        assert cost.peak_bytes < 1.02 * 2 * weights


def test_of_gradients_that_gpus_exchange_two_layers_are_held_at_once():
    work = dataclasses.replace(Workload((4096,) * 9, 4), exchange="gradients")
    cost = predict("ddp", work, hardware(2, device="cuda"), fused=True)
    assert cost.peak_bytes < cost.held_bytes + 2.1 * 4 * 4096**2


def test_of_equally_fast_updates_the_fused_one_is_taken():
    work = Workload((32,) * 4, 4)
    roomy = hardware(1)
    costs = [predict("ddp", work, roomy, fused=fused) for fused in (False, True)]
    assert advise(costs, roomy).cost is costs[1]
    assert advise([*costs, predict("fsdp2", work, roomy, fused=True)], roomy).cost is costs[1]


def test_the_fastest_that_fits_is_taken():
    work = Workload((4096,) * 12, 64)
    roomy, narrow, tiny = (hardware(4, memory=gib * 2**30) for gib in (64, 0.8, 0.001))
    names = ("ddp", "fsdp2", "tensor")
    costs = [predict(name, work, roomy) for name in names]
    fastest = min(costs, key=lambda cost: cost.seconds)
    assert advise(costs, roomy).cost is fastest
    assert not fits(costs[0], narrow)
    chosen = advise(costs, narrow)
    assert chosen.cost is not None
    assert fits(chosen.cost, narrow)
    assert advise(costs, tiny).cost is None
    assert advise(costs, tiny).reason.startswith("tensor needs least")


def test_of_equally_fast_ones_the_simplest_is_taken():
    costs = plans(Workload((1024,) * 4, 64), hardware(1))[:5]
    assert advise(costs, hardware(1)).cost is costs[1]
    assert costs[1].strategy == costs[0].strategy == "ddp"
    slower = dataclasses.replace(costs[0], seconds=2 * costs[0].seconds)
    assert advise([slower, *costs[1:]], hardware(1)).cost is costs[1]


def test_steps_too_short_to_tell_apart_take_the_simplest():
    where = hardware(8, device="cuda")
    costs = plans(Workload((64, 32, 128, 288, 512, 800, 10), 100), where)
    costs = [dataclasses.replace(costs[0], seconds=9e-4), dataclasses.replace(costs[2], seconds=1e-4)]
    advice = advise(costs, where)
    assert advice.cost is costs[0]
    assert "under 1 ms, and simplest" in advice.reason


def test_products_hide_traffic_where_strategies_overlap():
    slow, fast = hardware(4, inside=1e6), hardware(4, inside=1e15, latency=1e-12)
    work = Workload((512,) * 5, 64)
    hidden = predict("ddp", work, fast)
    assert hidden.seconds == pytest.approx(hidden.multiplying)
    bound = predict("ddp", work, slow)
    forward = bound.multiplying * 4 / 11
    assert bound.seconds == pytest.approx(forward + bound.traffic.seconds)
    waiting = predict("fsdp2", work, slow)
    assert waiting.seconds == pytest.approx(waiting.multiplying + waiting.traffic.seconds, rel=1e-3)


@given(st.floats(1e-3, 1e17))
def test_sizes_read_as_they_are_written(count):
    assert parse("k", size(count), SIZES) == pytest.approx(count, rel=6e-3)


def test_units_are_those_of_people():
    assert size(80 * 2**30) == "80 GiB"
    assert (duration(0.0123), duration(2.5), duration(4e-6)) == ("12.3 ms", "2.5 s", "4 µs")
    assert (speed(1.5e11), operations(6e13)) == ("150 GB/s", "60 TFLOP/s")
    assert parse("k", "25 GB", SIZES) == 25e9
    assert parse("k", "10us", DURATIONS) == pytest.approx(1e-5)
