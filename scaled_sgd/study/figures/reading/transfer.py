"""The cost of transferring a learning rate from one network to another."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from scaled_sgd.study.figures.drawing.panels import Panel, Panels
from scaled_sgd.study.figures.reading.rates import ChosenRate, best
from scaled_sgd.study.figures.reading.view import DEPTH, FINAL, RATE, WIDTH, label, values
from scaled_sgd.study.figures.reading.words import number, sentence_of, span, times


def lines_of(runs: pd.DataFrame, line: str | None) -> list[tuple[Any, pd.DataFrame]]:
    """The runs of every line of a panel; one unnamed line without an axis."""
    return [(value, runs[runs[line] == value]) for value in values(runs, line)] if line else [(None, runs)]


def name_of(panel: Panel, line: str | None, value: Any) -> str:
    """The name of a line of a panel; empty for a single line."""
    return " · ".join(part for part in (panel.title, label(line, value) if line else "") if part)


def sentence(panels: Panels, line: str | None) -> str:
    """The cost of transferring a rate, or the best rate if the lines are not sizes."""
    if line in (WIDTH, DEPTH):
        carried = [_carried(panel, line) for panel in panels.shown]
        said = sentence_of([(panel.title, c.words) for panel, c in zip(panels.shown, carried, strict=True)])
        return said if said is not None else _summary(carried)
    found = [
        (name_of(p, line, value), best(rows)) for p in panels.shown for value, rows in lines_of(p.runs, line)
    ]
    said = sentence_of([(name, _place(c)) for name, c in found], opening="The best learning rate is ")
    rates = [choice.rate for _, choice in found if choice.found]
    if not rates:
        return "No rate of the grid will do: the median loss is infinite at each."
    return said or f"The best learning rate is η = {span(rates)}."


def _place(choice: ChosenRate) -> str:
    if not choice.found:
        return "none"
    return f"η = {number(choice.rate)}, with a median loss of {number(choice.median(FINAL))},"


@dataclass(frozen=True)
class _Carried:
    """The best rate of a panel's first line used on its last: the factor of the loss, NaN if unknown."""

    words: str
    factor: float
    same: bool


def _carried(panel: Panel, line: str) -> _Carried:
    lines = lines_of(panel.runs, line)
    (start, here), (end, there) = lines[0], lines[-1]
    a, b = label(line, start), label(line, end)
    tuned, own = best(here), best(there)
    if not (tuned.found and own.found):
        return _Carried(f"every rate diverges at {b if tuned.found else a}", math.nan, False)
    rate = f"the best rate at {a}, η = {number(tuned.rate)},"
    if tuned.rate == own.rate:
        return _Carried(f"{rate} is also the best at {b}", 1.0, True)
    at_end = there.loc[there[RATE] == tuned.rate, FINAL]
    if at_end.empty:
        return _Carried(f"{rate} was not run at {b}", math.nan, False)
    loss, least = float(at_end.median()), own.median(FINAL)
    factor = loss / least if least > 0 else math.inf
    ends = "the same loss as" if number(factor) == "1" else f"{times(factor)} the loss of"
    cost = f"ends at {ends}" if loss < math.inf else "diverges, unlike"
    return _Carried(
        f"{rate} carried to {b} {cost} the best rate there, η = {number(own.rate)},", factor, False
    )


def _summary(carried: list[_Carried]) -> str:
    same = sum(c.same for c in carried)
    known = [c.factor for c in carried if not math.isnan(c.factor)]
    finite = [factor for factor in known if factor < math.inf]
    said = "The best rate of the smallest network is also that of the largest in "
    said += f"{same} of {len(carried)} panels"
    if finite:
        ends = "the same loss as" if span(finite) == "1" else f"{span(finite)} times the loss of"
        said += f"; carried over, it ends at {ends} the rate that is best there"
    if len(finite) < len(known):
        said += f", and diverges in {len(known) - len(finite)}"
    return f"{said}."
