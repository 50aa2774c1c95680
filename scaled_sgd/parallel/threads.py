"""Measures whether the threads of this process are in each other's way.

Threads wait for each other in every product. Beside other work on the same cores one of them often does not
run, and two can be forty times slower than one. Threads are not changed: rounding depends on their number,
and a resumed run repeats the numbers of an uninterrupted one.
"""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

import torch

_SECONDS = 0.05
_LARGEST = 512
"""Widths and samples of the measured products are at most this: enough for threads to share."""

_WORTH_TELLING = 1.5


def slowdown(widths: Sequence[int], n: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of small products of a forward pass with this process's threads, over those with one.

    Args:
        widths: (m_0..m_l).
        n: samples of a minibatch.
        clock: seconds.
    """
    sizes = [min(width, _LARGEST) for width in widths]
    weights = [torch.ones(fan_out, fan_in) for fan_in, fan_out in pairwise(sizes)]
    inputs = [torch.ones(min(n, _LARGEST), fan_in) for fan_in in sizes[:-1]]

    def seconds() -> float:
        start = clock()
        for h, weight in zip(inputs, weights, strict=True):
            h @ weight.T
        return clock() - start

    threads = torch.get_num_threads()
    all_threads: list[float] = []
    one: list[float] = []
    end = clock() + _SECONDS
    try:
        while len(one) < 3 or clock() < end:
            for count, found in ((threads, all_threads), (1, one)):
                torch.set_num_threads(count)
                seconds()  # wakes the threads
                found.append(seconds())
    finally:
        torch.set_num_threads(threads)
    return float(median(all_threads) / median(one))


def advice(widths: Sequence[int], n: int) -> str | None:
    """One line if one thread would be faster; None if not, or if there is one."""
    threads = torch.get_num_threads()
    if threads == 1 or (ratio := slowdown(widths, n)) < _WORTH_TELLING:
        return None
    times = f"{ratio:.2g} times" if ratio < 100 else "over 100 times"
    return (
        f"warning: {threads} threads take {times} as long as one, perhaps beside other work on these cores; "
        "OMP_NUM_THREADS=1 may be faster"
    )
