"""Whether threads are in each other's way is measured, and nothing else is changed."""

import itertools

import pytest
import torch

from scaled_sgd.parallel import threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_slowdown_is_a_ratio_of_seconds_and_threads_stay():
    ticks = itertools.count()

    def clock():
        # One thread takes a tick for its products, two threads take five.
        return next(ticks) if torch.get_num_threads() == 1 else 5 * next(ticks)

    assert threads.slowdown((4, 8, 2), 3, clock) == 5
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("ratio", "told"), [(0.6, None), (1.4, None), (3.14, "3.1 times"), (4e3, "over 100 times")]
)
def test_one_line_tells_of_threads_that_are_slower(ratio, told, monkeypatch):
    monkeypatch.setattr(threads, "slowdown", lambda widths, n: ratio)
    line = threads.advice((4, 8, 2), 3)
    assert line is None if told is None else f"2 threads take {told} as long as one" in line


def test_one_thread_is_not_measured(monkeypatch):
    monkeypatch.setattr(threads, "slowdown", None)
    assert torch.get_num_threads() == 1
    assert threads.advice((4, 8, 2), 3) is None
