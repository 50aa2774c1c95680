"""Sharpness against step, with the edge of stability of that step."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panel, Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import GREY, curve, log_axis, ordered, step_axis
from scaled_sgd.study.figures.reading.edges import (
    edge_formula,
    median_edge,
    no_edge_notes,
    steps_with_edges,
)
from scaled_sgd.study.figures.reading.over_steps import (
    late,
    over_seeds,
    said_of_late,
    shown_widths,
    telling_rates,
)
from scaled_sgd.study.figures.reading.rates import seed_note
from scaled_sgd.study.figures.reading.view import (
    RATE,
    SEED,
    STEP_LOSS,
    WIDTH,
    View,
    groups,
    label,
    several_rates,
)
from scaled_sgd.study.figures.reading.words import listing, number, sentence_of, share, span, spread
from scaled_sgd.study.tables.edges import edge_of

_TITLES = {
    "preconditioned_sharpness": "Does training run at the edge of stability?",
    "sharpness": "How sharp is the loss where training goes?",
}
_QUANTITIES = {
    "preconditioned_sharpness": "preconditioned sharpness",
    "sharpness": "sharpness",
}
_MOST_WITH_LOSS = 8
"""Panels of a figure that has the loss above the sharpness."""


@dataclass(frozen=True)
class _Line:
    """Runs of one rate, or one width, of a panel; ``steps`` with the edge of each."""

    panel: str
    value: float
    name: str
    steps: pd.DataFrame


def lacks(view: View, column: str) -> str:
    """A study needs measured sharpness."""
    return "" if view.has(column) else f"{column} in the metrics (diagnostics.every)"


def draw(view: View, column: str) -> Drawn:
    """At up to three learning rates, or at every width where each network has one rate; the loss above."""
    several = several_rates(view)
    every, left_out = shown_widths(view)
    runs = every[every["id"].isin(view.steps(every, [column])["id"])]
    panels = Panels.of(runs, view.without(WIDTH))
    titles = [panel.title for panel in panels.shown]
    unmeasured = [p.title for p in Panels.of(every, view.without(WIDTH)).shown if p.title not in titles]
    lines = [line for panel in panels.shown for line in _lines(view, panel, column, several)]
    shown = sorted({line.value for line in lines})
    with_loss = view.has(STEP_LOSS) and len(panels.shown) <= _MOST_WITH_LOSS
    picture, axes, above = panels.figure_of_two() if with_loss else (*panels.figure(share_y=False), [])
    for place, (ax, panel) in enumerate(zip(axes, panels.shown, strict=True)):
        own = [line for line in lines if line.panel == panel.title]
        _panel(ax, own, column, shown)
        if above:
            _losses(above[place], view, panel, own, shown)
    if above:
        panels.label_first(above, "minibatch loss")
    panels.label(axes, "step", f"{_QUANTITIES[column]} λ")
    formula, has_edge = edge_formula(view, runs), any(line.steps["edge"].notna().any() for line in lines)
    edge = [Line2D([], [], color=GREY, linestyle=(0, (4, 2)), linewidth=1.2, label=formula)]
    key_of_lines(picture, axes, order=_names(lines), extra=edge if has_edge else ())
    table = pd.DataFrame([_row(line, column) for line in lines])
    caption = (
        f"Largest eigenvalue λ of the {'preconditioned ' if column != 'sharpness' else ''}Hessian on a fixed "
        f"probe against step, {spread(view.seeds)}."
        + (f" The dashed line is the edge of stability {formula} at that step." if has_edge else "")
        + (" c is the factor of clipping or normalising." if has_edge and "c" in formula else "")
        + (" Learning rates: the lowest, the best and the largest stable one." if several else "")
    )
    notes = (
        *panels.notes,
        *left_out,
        *([f"Not measured for {listing(unmeasured)}."] if unmeasured else ()),
        *no_edge_notes((line.panel, line.steps) for line in lines if line.steps["edge"].isna().all()),
        *seed_note([line.steps[SEED].nunique() for line in lines if len(line.steps)]),
    )
    tell = _fall_sentence if column == "sharpness" else _edge_sentence
    said = said_of_late(tell(lines, "rate" if several else "width"), runs)
    if formula != "2/η":
        said = said.replace("η λ / 2", "λ over its edge")
    return Drawn(column, _TITLES[column], said, caption, notes, table, picture)


def _lines(view: View, panel: Panel, column: str, several: bool) -> list[_Line]:
    runs = panel.runs
    chosen = runs[runs[RATE].isin(telling_rates(runs))] if several else runs
    axis = RATE if several else WIDTH
    split = [(value, _steps(view, rows, column)) for (value,), rows in groups(chosen, [axis])]
    return [_Line(panel.title, value, label(axis, value), steps) for value, steps in split if len(steps)]


def _steps(view: View, runs: pd.DataFrame, column: str) -> pd.DataFrame:
    steps = steps_with_edges(view, runs, [column])
    return steps.assign(edge=edge_of(steps, column))


def _names(lines: list[_Line]) -> list[str]:
    return [line.name for line in sorted(lines, key=lambda line: line.value)]


def _panel(ax: Axes, lines: list[_Line], column: str, shown: list[float]) -> None:
    top, low = [], []
    one_edge = len({float(line.steps["edge"].min()) for line in lines}) == 1
    for line in lines:
        data = over_seeds(line.steps, column)
        data = data[data["median"] > 0]
        look = ordered(shown.index(line.value), len(shown)) | {"markersize": 3.5}
        curve(ax, data, look, label=line.name)
        edge = median_edge(line.steps, column)
        edge_color = GREY if one_edge else look["color"]
        ax.plot(edge.index, edge, color=edge_color, linestyle=(0, (4, 2)), linewidth=1.2)
        # Neither an outlying seed nor the edge of a rate that decays to 0 may hide the rest.
        top += [*np.minimum(data["high"], 3 * data["median"]), *edge.iloc[: (len(edge) + 1) // 2]]
        low += list(np.maximum(data["low"], data["median"] / 3))
    if low and top:
        ax.set_ylim(min([*low, *top]) / 1.3, max(top) * 1.6)
    log_axis(ax, "y")
    step_axis(ax)


def _losses(ax: Axes, view: View, panel: Panel, lines: list[_Line], shown: list[float]) -> None:
    """The loss of the same runs."""
    for line in lines:
        runs = panel.runs[panel.runs["id"].isin(line.steps["id"])]
        steps = view.steps(runs, [STEP_LOSS])
        look = ordered(shown.index(line.value), len(shown)) | {"markersize": 3.5}
        curve(ax, over_seeds(steps, STEP_LOSS), look, label=None)
    log_axis(ax, "y")
    step_axis(ax)


def _ratios(line: _Line, column: str) -> Any:
    return late(line.steps.assign(ratio=line.steps[column] / line.steps["edge"]), "ratio")


def _edge_sentence(lines: list[_Line], what: str) -> str:
    """A sentence about how far beyond the edge the runs of the largest rate, or width, of each panel are."""
    fastest = {line.panel: line for line in lines}
    parts, medians = [], []
    for panel, line in fastest.items():
        ratios = _ratios(line, "preconditioned_sharpness")
        if not len(ratios):
            continue
        medians.append(float(np.median(ratios)))
        beyond = float((ratios > 1).mean())
        parts.append(
            (
                panel,
                f"{number(medians[-1])} at {line.name}, with {share(beyond)} of the measurements beyond "
                "the edge,",
            )
        )
    if not parts:
        return "No measurement of the last half of training has an edge."
    said = sentence_of(parts, opening="In the last half of training the median of η λ / 2 is ")
    if said is not None:
        return said
    past = sum(median > 1 for median in medians)
    where = f"At the largest {what} shown, the" if len({line.value for line in lines}) > 1 else "The"
    return (
        f"{where} median of η λ / 2 in the last half of training is {span(medians)}, "
        f"beyond the edge in {past} of {len(medians)} panels."
    )


def _fall_sentence(lines: list[_Line], what: str) -> str:
    """A sentence about how the final sharpness depends on the rate, or the width."""
    panels: dict[str, list[_Line]] = {}
    for line in lines:
        panels.setdefault(line.panel, []).append(line)
    parts, falls, compared, last = [], 0, 0, []
    for panel, found in panels.items():
        ends = [float(over_seeds(line.steps, "sharpness")["median"].iloc[-1]) for line in found]
        last.append(ends[-1])
        if len(found) == 1:
            start = float(over_seeds(found[0].steps, "sharpness")["median"].iloc[0])
            said = f"{number(ends[0])} at {found[0].name}, from {number(start)} at the start,"
        else:
            compared += 1
            falls += ends[-1] < ends[0]
            said = f"{number(ends[0])} at {found[0].name} and {number(ends[-1])} at {found[-1].name}"
        parts.append((panel, said))
    text = sentence_of(parts, opening="The sharpness at the end is ")
    if text is not None:
        return text
    if not compared:
        return f"The sharpness at the end is {span(last)}."
    return (
        f"From the smallest to the largest {what} shown, the sharpness at the end falls in {falls} of "
        f"{compared} panels."
    )


def _row(line: _Line, column: str) -> dict[str, object]:
    data = over_seeds(line.steps, column)
    ratios = _ratios(line, column)
    return {
        "panel": line.panel or "all",
        "runs at": line.name,
        f"{_QUANTITIES[column]} at the start": data["median"].iloc[0],
        "at the end": data["median"].iloc[-1],
        "lowest seed": data["low"].iloc[-1],
        "highest seed": data["high"].iloc[-1],
        "edge ratio late, median": float(np.median(ratios)) if len(ratios) else None,
        "seeds": line.steps[SEED].nunique(),
    }


RAW, PRECONDITIONED = (
    Recipe(column, _TITLES[column], partial(lacks, column=column), partial(draw, column=column))
    for column in ("sharpness", "preconditioned_sharpness")
)
