"""How much of a law is tried: a sample in ``make test``, half of it in ``make quick``, more in ``full``."""

from collections.abc import Iterable, Sequence
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import settings

SUITE, SAMPLE = "suite", 20
settings.register_profile(SUITE, deadline=None, max_examples=SAMPLE, derandomize=True)
settings.register_profile("quick", settings.get_profile(SUITE), max_examples=SAMPLE // 2)
settings.register_profile("full", settings.get_profile(SUITE), max_examples=5 * SAMPLE)


def examples(count: int) -> settings:
    """``count`` random examples, half as many in ``make quick``, five times as many in ``make full``."""
    return settings(max_examples=count * settings.default.max_examples // SAMPLE)


def pairwise(*axes: Iterable[Any]) -> list[Any]:
    """Every combination of the values of several parameters, as their parametrization.

    Those in ``make test`` have every pair of values at least once, and all others are for ``make full``.
    """
    values = [list(axis) for axis in axes]
    rows = list(product(*(range(len(axis)) for axis in values)))
    sample = _covering(rows)
    return [
        pytest.param(
            *(axis[place] for axis, place in zip(values, row, strict=True)),
            marks=() if row in sample else pytest.mark.full,
        )
        for row in rows
    ]


def _pairs(row: Sequence[int]) -> set[tuple[tuple[int, int], ...]]:
    return set(combinations(enumerate(row), 2))


def _covering(rows: Sequence[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Few of the rows that have every pair of values that any row has: the best one first."""
    missing = set().union(*map(_pairs, rows))
    chosen = set()
    while missing:
        best = max(rows, key=lambda row: len(_pairs(row) & missing))
        chosen.add(best)
        missing -= _pairs(best)
    return chosen
