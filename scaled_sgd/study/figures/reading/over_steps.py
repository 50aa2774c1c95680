"""Quantities against step: medians and ranges over seeds, and the selection of runs."""

import re
from typing import Any

import pandas as pd

from scaled_sgd.study.figures.reading.rates import best, by_rate, largest_stable
from scaled_sgd.study.figures.reading.view import RATE, SEED, WIDTH, View, several_rates, values
from scaled_sgd.study.figures.reading.words import listing, value_label


def shown_widths(view: View) -> tuple[pd.DataFrame, list[str]]:
    """Runs to be shown against step, and a note about the others.

    All widths where each network has one rate for each method; where they have several, only the largest, for
    rates are compared there.
    """
    if WIDTH not in view.varied or not several_rates(view):
        return view.runs, []
    *others, largest = values(view.runs, WIDTH)
    left, shown = [value_label(WIDTH, width) for width in others], value_label(WIDTH, largest)
    notes = [f"Shown at {shown}; left out: {listing(left)}."] if left else []
    return view.runs[view.runs[WIDTH] == largest], notes


def axes_with_widths(view: View, runs: pd.DataFrame) -> tuple[str, ...]:
    """Axes of panels that have several lines each, so that every width of these runs needs its own."""
    return view.varied if runs[WIDTH].nunique() > 1 else view.without(WIDTH)


def telling_rates(runs: pd.DataFrame) -> list[float]:
    """At most three rates of a group: the lowest, the best and the largest stable one."""
    chosen = {float(runs[RATE].min())}
    chosen |= {choice.rate for choice in (best(runs), largest_stable(runs)) if choice.found}
    return sorted(chosen)


def at_best_rate(runs: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Runs at the best rate of a group, or at its lowest if all diverged, and the rate."""
    choice = best(runs)
    rate = choice.rate if choice.found else float(by_rate(runs)[RATE].iloc[0])
    return runs[runs[RATE] == rate], rate


def over_seeds(steps: pd.DataFrame, column: str) -> pd.DataFrame:
    """median, low and high (steps,) over seeds, indexed by step."""
    grouped = steps.dropna(subset=[column]).groupby("step")[column]
    return pd.DataFrame({"median": grouped.median(), "low": grouped.min(), "high": grouped.max()})


def late(steps: pd.DataFrame, column: str) -> Any:
    """Values of the last half of each run's steps, as for ``late_edge_ratio``."""
    known = steps.dropna(subset=[column])
    return known.loc[2 * known["step"] >= known["end"], column].to_numpy()


def said_of_late(sentence: str, runs: pd.DataFrame) -> str:
    """A sentence about the last half of training; it says where rates, and with them η λ / 2, decay to 0."""
    columns = [runs[key].astype(str) for key in ("optim.schedule", "config.optim.schedule") if key in runs]
    decays = any(bool(column.isin(["linear", "cosine"]).any()) for column in columns)
    if not decays:
        return sentence
    return re.sub(r"last half of (training|a run)(?=([,.])?)", _while_decaying, sentence)


def _while_decaying(found: re.Match[str]) -> str:
    return f"{found[0]}, while η decays to 0{'' if found[2] else ','}"


def last(steps: pd.DataFrame, column: str) -> pd.Series:
    """The last value of every run that reached the last measured step, by seed."""
    known = steps.dropna(subset=[column])
    return known[known["step"] == known["step"].max()].set_index(SEED)[column]
