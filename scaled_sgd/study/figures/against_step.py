"""A diagnostic's column against step, at the best learning rate."""

import pandas as pd

from scaled_sgd.diagnostics.columns import Column, Figure
from scaled_sgd.study.figures.drawing.drawn import Drawn
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import curve, draw_line, ordered, step_axis
from scaled_sgd.study.figures.reading.over_steps import (
    at_best_rate,
    axes_with_widths,
    last,
    over_seeds,
    shown_widths,
)
from scaled_sgd.study.figures.reading.rates import seed_note
from scaled_sgd.study.figures.reading.view import RATE, WIDTH, View, groups, label, layer_cell, values
from scaled_sgd.study.figures.reading.words import number, sentence_of, span, spread

_DEEPEST = {"all": " of the last layer", "hidden": " of the last hidden layer", "none": ""}


def draw(view: View, column: Column, figure: Figure) -> Drawn:
    """Median and range over seeds: one line per layer, or per width where the column is one number."""
    lines = view.lines(column)
    runs, left_out = shown_widths(view)
    names = [label(WIDTH, width) for width in values(runs, WIDTH)]
    overlaid = column.layers == "none" and len(names) > 1
    panels = Panels.of(runs, view.without(WIDTH) if overlaid else axes_with_widths(view, runs))
    picture, axes = panels.figure(share_y=False)
    parts: list[tuple[str, str]] = []
    rows: list[dict[str, object]] = []
    starts, ends = [], []
    for ax, panel in zip(axes, panels.shown, strict=True):
        for of_width in [rows for _, rows in groups(panel.runs, [WIDTH])] if overlaid else [panel.runs]:
            width = label(WIDTH, of_width[WIDTH].iloc[0]) if overlaid else ""
            title = " · ".join(filter(None, (panel.title, width)))
            chosen, rate = at_best_rate(of_width)
            steps = view.steps(chosen, list(lines))
            known = [name for name in lines if steps[name].notna().any()]
            for name in known:
                data = over_seeds(steps, name)
                if overlaid:
                    look = ordered(names.index(width), len(names)) | {"markersize": 3.5}
                    curve(ax, data, look, label=width)
                else:
                    draw_line(ax, data, lines, name, size=3.5)
                head = {"panel": title or "all", **layer_cell(name, lines), "learning rate η": rate}
                rows.append(head | _ends(data, last(steps, name)))
            if known:
                deepest = over_seeds(steps, known[-1])["median"]
                starts.append(float(deepest.iloc[0]))
                ends.append(float(deepest.iloc[-1]))
                way = f"from {number(starts[-1])} to {number(ends[-1])} at η = {number(rate)}"
                parts.append((title, way + _at_lowest_rate(view, of_width, known[-1], rate)))
        step_axis(ax)
    panels.label(axes, "step", figure.axis)
    key_of_lines(picture, axes, order=names)
    subject = f"In training the {figure.axis}{_DEEPEST[column.layers]}"
    said = sentence_of(parts, opening=f"{subject} goes ")
    if not ends:
        said = f"{subject} was not measured in the runs that are shown."
    elif said is None:
        rises = sum(end > start for start, end in zip(starts, ends, strict=True))
        said = f"{subject} rises in {rises} of {len(ends)} {'lines' if overlaid else 'panels'}, and "
        said += f"ends at {span(ends)} (start: {span(starts)})."
    caption = f"{figure.meaning} against step, at the best learning rate; {spread(view.seeds)}."
    notes = (*panels.notes, *left_out, *seed_note([row["seeds"] for row in rows]))
    return Drawn(figure.name, figure.title, said, caption, notes, pd.DataFrame(rows), picture)


def _ends(data: pd.DataFrame, ending: pd.Series) -> dict[str, object]:
    """The first and the last value of a line."""
    return {
        "at the start": data["median"].iloc[0],
        "at the end": ending.median(),
        "lowest seed": ending.min(),
        "highest seed": ending.max(),
        "seeds": ending.size,
    }


def _at_lowest_rate(view: View, runs: pd.DataFrame, column: str, rate: float) -> str:
    """The final values at the lowest rate of the grid, for comparison."""
    lowest = float(runs[RATE].min())
    steps = view.steps(runs[runs[RATE] == lowest], [column])
    if lowest == rate or steps.empty:
        return ""
    return f" (to {number(last(steps, column).median())} at η = {number(lowest)})"
