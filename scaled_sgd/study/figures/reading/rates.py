"""The best and the largest stable learning rate of a group of runs."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from scaled_sgd.study.figures.reading.view import FINAL, RATE, SEED, groups
from scaled_sgd.study.figures.reading.words import count, listing, number


def by_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per learning rate, ascending: median, low and high of the final loss over seeds (infinite
    for diverged runs), number of seeds, number of diverged runs, and whether all were stable."""
    grouped = runs.assign(diverged=runs["status"] == "diverged").groupby(RATE)
    return pd.DataFrame(
        {
            "median": grouped[FINAL].median(),
            "low": grouped[FINAL].min(),
            "high": grouped[FINAL].max(),
            "seeds": grouped[SEED].nunique(),
            "diverged": grouped["diverged"].sum(),
            "stable": grouped["stable"].all(),
        }
    ).reset_index()


@dataclass(frozen=True)
class ChosenRate:
    """A learning rate chosen from a grid.

    Attributes:
        rate: the chosen rate; NaN if there is none.
        low: the smallest rate that a single seed would choose.
        high: the largest such rate.
        end: ``lowest`` or ``highest`` if it is an end of a grid of several rates; else empty.
        seeds: number of seeds behind it.
        runs: the runs at this rate.
    """

    rate: float
    low: float
    high: float
    end: str
    seeds: int
    runs: pd.DataFrame

    @property
    def found(self) -> bool:
        """Whether there is a rate."""
        return not math.isnan(self.rate)

    def median(self, column: str) -> float:
        """The median over the seeds at this rate; NaN if there is none."""
        return float(self.runs[column].median()) if self.found and column in self.runs else math.nan


def best(runs: pd.DataFrame) -> ChosenRate:
    """The rate with the lowest median final loss over seeds; the lower of equals."""
    rates = by_rate(runs)
    finite = rates[rates["median"] < math.inf]
    chosen = float(finite.loc[finite["median"].idxmin(), RATE]) if len(finite) else math.nan
    usable = runs[runs[FINAL] < math.inf].sort_values(RATE, kind="stable")
    alone = usable.loc[usable.groupby(SEED)[FINAL].idxmin(), RATE] if len(usable) else pd.Series(dtype=float)
    return _choice(runs, rates, chosen, alone)


def largest_stable(runs: pd.DataFrame) -> ChosenRate:
    """The largest rate of the grid that, like all lower ones, is stable for every seed."""
    rates = by_rate(runs)
    alone = pd.Series([_last_stable(rows) for _, rows in runs.groupby(SEED)], dtype=float)
    return _choice(runs, rates, _last_stable(rates), alone.dropna())


def _last_stable(rows: pd.DataFrame) -> float:
    ascending = rows.sort_values(RATE)
    unbroken = ascending["stable"].cummin().astype(bool)
    return float(ascending.loc[unbroken, RATE].max()) if unbroken.any() else math.nan


def _choice(runs: pd.DataFrame, rates: pd.DataFrame, chosen: float, alone: pd.Series) -> ChosenRate:
    grid = list(rates[RATE])
    at = runs[runs[RATE] == chosen]
    end = ""
    if len(grid) > 1 and chosen in (grid[0], grid[-1]):
        end = "lowest" if chosen == grid[0] else "highest"
    low, high = (float(alone.min()), float(alone.max())) if len(alone) else (math.nan, math.nan)
    return ChosenRate(chosen, min(low, chosen), max(high, chosen), end, int(at[SEED].nunique()), at)


def at_common_rate(runs: pd.DataFrame, axis: str) -> tuple[pd.DataFrame, float]:
    """Runs at one rate for all values of ``axis``, and the rate.

    Among the rates that are stable at each, the one with the lowest mean log loss; the smallest common rate
    if none is stable. Where there is no common rate, each value's runs at its best rate, and NaN.
    """
    found = [rows for _, rows in groups(runs, [axis])]
    tables = [by_rate(rows).set_index(RATE) for rows in found]
    shared = sorted(set.intersection(*(set(table.index) for table in tables))) if tables else []
    stable = [rate for rate in shared if all(table.loc[rate, "stable"] for table in tables)]
    if not shared:
        own = [rows[rows[RATE] == choice.rate] for rows in found if (choice := best(rows)).found]
        return pd.concat(own) if own else runs.iloc[:0], math.nan

    def cost(rate: Any) -> float:
        losses = [float(table.loc[rate, "median"]) for table in tables]
        return sum(math.log(loss) if loss > 0 else -math.inf for loss in losses)

    rate = float(min(stable, key=cost) if stable else shared[0])
    return runs[runs[RATE] == rate], rate


def said_at(rate: float) -> str:
    """Where :func:`at_common_rate` looked."""
    return "at the best rate of each width" if math.isnan(rate) else f"at η = {number(rate)}"


def grid_step(runs: pd.DataFrame) -> str:
    """The resolution of the rates: ``in steps of 2×``, if the grid has even steps."""
    rates = sorted(rate for rate in runs[RATE].unique() if rate > 0)
    steps = {round(b / a, 6) for a, b in itertools.pairwise(rates)}
    return f" on a grid in steps of {number(steps.pop())}×" if len(steps) == 1 else ""


def end_notes(ends: Sequence[tuple[str, ChosenRate]], what: str) -> list[str]:
    """Sentences about choices at an end of their grid, and about groups without a choice."""
    notes = []
    for end, direction in (("highest", "higher"), ("lowest", "lower")):
        named = [name for name, choice in ends if choice.end == end]
        if named:
            notes.append(
                f"{what} is the {end} of the grid for {listing(_named(named))}: it may lie {direction}."
            )
    missing = [name for name, choice in ends if not choice.found]
    if missing:
        notes.append(f"No rate of the grid will do for {listing(_named(missing))}.")
    return notes


def seed_note(seeds: Sequence[Any]) -> list[str]:
    """A sentence if points have few seeds or different numbers of seeds."""
    found = sorted({int(seed) for seed in seeds})
    if not found:
        return []
    if found[-1] == 1:
        return ["One seed a point: there is no spread to see."]
    if found[0] != found[-1]:
        return [f"Points have {found[0]} to {count(found[-1], 'seed')}."]
    return []


def _named(names: Sequence[str]) -> list[str]:
    return [name or "the network" for name in names]
