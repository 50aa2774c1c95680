"""A diagnostic's column at the last measured step against width, with fitted power laws."""

import math

import numpy as np
import pandas as pd

from scaled_sgd.diagnostics.columns import Column, Figure
from scaled_sgd.study.figures.drawing.drawn import Drawn
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import draw_line, log_axis
from scaled_sgd.study.figures.reading.over_steps import last
from scaled_sgd.study.figures.reading.rates import at_common_rate, said_at, seed_note
from scaled_sgd.study.figures.reading.view import SEED, WIDTH, View, groups, layer_cell, values
from scaled_sgd.study.figures.reading.words import axis_label, number, sentence_of, span, spread


def draw(view: View, column: Column, figure: Figure) -> Drawn:
    """Median and range over seeds at the last step, with one learning rate for all widths of a panel."""
    lines = view.lines(column)
    panels = Panels.of(view.runs, view.without(WIDTH))
    picture, axes = panels.figure(share_y=False)
    parts: list[tuple[str, str]] = []
    rows: list[dict[str, object]] = []
    powers: list[float] = []
    for ax, panel in zip(axes, panels.shown, strict=True):
        chosen, rate = at_common_rate(panel.runs, WIDTH)
        steps = view.steps(chosen, list(lines))
        known: dict[str, float] = {}
        for name in lines:
            data = _ends(steps, name)
            if data.empty:
                continue
            draw_line(ax, data, lines, name, size=4.5)
            power = _power(data)
            if not math.isnan(power):
                known[name] = power
            for width, row in zip(data.index, data.to_dict("records"), strict=True):
                head = {"panel": panel.title or "all", **layer_cell(name, lines), "learning rate η": rate}
                rows.append(head | {axis_label(WIDTH): width} | row | {"power of m": power})
        powers += known.values()
        parts.append((panel.title, _powers(known, rate)))
        log_axis(ax, "x", at=values(panel.runs, WIDTH))
        log_axis(ax, "y")
    panels.label(axes, axis_label(WIDTH), figure.axis)
    key_of_lines(picture, axes)
    widths = values(view.runs, WIDTH)
    opening = (
        f"Between m = {number(widths[0])} and {number(widths[-1])}, {figure.subject} goes like mˢ with s "
    )
    said = sentence_of(parts, opening=opening) or opening + _all_powers(powers, len(panels.shown))
    caption = (
        f"{figure.meaning}, at the last measured step, against base width: {spread(view.seeds)}, at "
        "one learning rate for all widths, stable at each where there is one, or where they share none at "
        "the best of each. A power of m of 0 means the same at every width."
    )
    notes = (*panels.notes, *seed_note([row["seeds"] for row in rows]))
    return Drawn(figure.name, figure.title, said, caption, notes, pd.DataFrame(rows), picture)


def _ends(steps: pd.DataFrame, name: str) -> pd.DataFrame:
    """One row per width: the last measured step, over the seeds that reached it."""
    rows = {}
    for (width,), here in groups(steps.dropna(subset=[name]), [WIDTH]):
        ending = last(here, name)
        spread = {"median": ending.median(), "low": ending.min(), "high": ending.max()}
        rows[width] = {"step": int(here["step"].max())} | spread | {"seeds": here[SEED].nunique()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _power(data: pd.DataFrame) -> float:
    """The slope s of the least-squares line log median = s log m + c."""
    known = data["median"][data["median"] > 0]
    return float(np.polyfit(np.log(known.index), np.log(known), 1)[0]) if len(known) > 1 else math.nan


def _powers(powers: dict[str, float], rate: float) -> str:
    if not powers:
        return "unknown, too few widths being measured,"
    ends = [pick(powers, key=powers.__getitem__) for pick in (min, max)]
    least, most = (_signed(powers[name]) for name in ends)
    at = f" {said_at(rate)}"
    if least == most:
        return f"= {least}{at}"
    low, high = (name.rpartition(".")[2] for name in ends)
    return f"from {least} (layer {low}) to {most} (layer {high}){at}"


def _all_powers(powers: list[float], panels: int) -> str:
    if not powers:
        return "unknown: too few widths were measured."
    flat = sum(abs(power) < 0.25 for power in powers)
    return (
        f"from {span(round(power, 2) for power in powers)} over {panels} panels; |s| is below 0.25 for "
        f"{flat} of {len(powers)} layers."
    )


def _signed(power: float) -> str:
    return f"{power:.2f}".replace("-0.00", "0.00").replace("-", "−")
