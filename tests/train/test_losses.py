"""Losses that are read at once and those that wait say the same."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaled_sgd.parallel import Ranks
from scaled_sgd.train.losses import Losses


def added(steps, *, on_cpu, read_every=1000):
    losses = Losses(Ranks.alone(), on_cpu=on_cpu, largest=[-math.inf] * len(steps[0]))
    for step, totals in enumerate(steps, start=1):
        losses.add(torch.tensor(totals, dtype=torch.float64), 4)
        if step % read_every == 0:
            losses.read()
    losses.read()
    return losses


@given(
    st.lists(st.tuples(*[st.floats(0, 1e300)] * 3), min_size=1, max_size=9),
    st.integers(1, 5),
)
def test_the_largest_is_that_of_all_steps_whenever_they_are_read(steps, read_every):
    live, waiting = added(steps, on_cpu=True), added(steps, on_cpu=False, read_every=read_every)
    assert live.live
    assert not waiting.live
    for losses in (live, waiting):
        assert losses.largest == [max(column) / 4 for column in zip(*steps, strict=True)]
        assert losses.last == [total / 4 for total in steps[-1]]
        assert all(losses.finite)


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_was_not_finite_once_is_remembered(bad, on_cpu):
    losses = added([(1.0, 2.0), (bad, 3.0), (0.5, 1.0)], on_cpu=on_cpu)
    assert losses.finite == [False, True]
    losses.keep([1])
    assert (losses.last, losses.largest, losses.finite) == ([0.25], [0.75], [True])


def test_losses_do_not_wait_without_end():
    losses = Losses(Ranks.alone(), on_cpu=False, largest=[-math.inf])
    for step in range(5000):
        losses.add(torch.tensor(float(step)), 1)
    assert losses.largest[0] >= 3000
