import math

import pytest

from scaled_sgd.core.schedules import AdasSchedule, DriftSchedule, EdgeSchedule, Schedule


def test_warm_up_grows_linearly_and_reaches_the_peak_at_its_end():
    schedule = Schedule("constant", 2.0, 10, warmup_steps=3)
    assert [schedule(step) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_decays_start_at_the_peak_and_would_reach_zero_one_step_after_the_last(kind):
    schedule = Schedule(kind, 3.0, 20, warmup_steps=5)
    rates = [schedule(step) for step in range(5, 21)]
    assert rates[0] == 3.0
    assert rates[-1] == pytest.approx(0)
    assert rates == sorted(rates, reverse=True)


def test_factors_multiply_the_rate_of_the_shape_from_their_steps_on():
    shape = Schedule("linear", 1.0, 8, warmup_steps=2)
    changed = Schedule("linear", 1.0, 8, warmup_steps=2, factors=[(1, 0.5), (4, 3.0)])
    assert [changed(step) for step in range(8)] == [
        factor * shape(step) for step, factor in enumerate([1, *[0.5] * 3, *[3.0] * 4])
    ]


def test_linear_and_cosine_are_at_half_the_peak_half_way():
    assert Schedule("linear", 1.0, 10)(5) == pytest.approx(0.5)
    assert Schedule("cosine", 1.0, 10)(5) == pytest.approx(0.5)


def test_the_edge_is_followed_and_the_rate_held_where_there_is_none():
    schedule = EdgeSchedule(4.0, ratio=0.5, every=3, warmup_steps=1)
    assert [step for step in range(7) if schedule.due(step)] == [0, 3, 6]
    for slope, curvature in ((1.0, 1.0), (-1.0, -1.0), (-1.0, math.nan), (-math.inf, 1.0)):
        schedule.see(slope, curvature)
        assert schedule(3) == 4.0
    schedule.see(-2.0, 1.0)  # η* = 1
    assert (schedule(0), schedule(3)) == (1.0, 2.0)
    schedule.see(-1e9, 1.0)
    assert schedule(6) == 4.0


def test_the_drift_sets_the_rate_which_at_most_doubles():
    schedule = DriftSchedule(1.0, power=0.5, every=2, warmup_steps=1)
    schedule.see(16.0)
    assert (schedule(0), schedule(2)) == (0.25, 0.5)
    for drift in (0.0, math.nan, math.inf):
        schedule.see(drift)
        assert schedule(2) == 0.5
    schedule.see(1e-9)
    assert schedule(2) == 1.0


def test_adas_follows_changes_of_the_gain_from_its_second_measurement_on():
    schedule = AdasSchedule(1.0, decay=0.5, growth=2.0, every=1)
    rates = []
    for gain in (0.25, 0.375, 0.125, 0.0):
        schedule.see(gain)
        rates.append(schedule(1))
    assert rates == [1.0, 0.75, 0.0, 0.0]
    other = AdasSchedule(1.0, decay=0.5, growth=2.0, every=1)
    other.load(schedule.state())
    assert (other.rate, other.gain) == (0.0, 0.0)
    other.load(EdgeSchedule(3.0, ratio=1, every=1).state())
    assert (other.rate, other.gain) == (3.0, None)
    assert DriftSchedule(2.0, power=1, every=1).state() == 2.0
