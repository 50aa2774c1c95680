"""Per-layer quantities at the last measured step against width, with fitted power laws."""

import math
from functools import partial

import numpy as np
import pandas as pd

from scaled_sgd.study.figures import against_step
from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.per_layer import PerLayer, draw_layer, lacks
from scaled_sgd.study.figures.drawing.style import log_axis
from scaled_sgd.study.figures.reading.over_steps import last
from scaled_sgd.study.figures.reading.rates import common_rate, seed_note
from scaled_sgd.study.figures.reading.view import RATE, SEED, WIDTH, View, groups, values
from scaled_sgd.study.figures.reading.words import axis_label, number, sentence_of, span

COORDINATES = PerLayer(
    "coordinate_check",
    "preactivation_change",
    "Do preactivations move as much at every width?",
    "relative change",
    "the relative change of preactivations",
    "RMS(z_k − z_k at step 0) / RMS(z_k at step 0) of every layer on a fixed probe",
)
_DRIFT = "‖K − K at step 0‖ / ‖K at step 0‖ of every hidden layer's feature kernel on a fixed probe"
DRIFT_OVER_WIDTH = PerLayer(
    "kernel_drift",
    "features.drift",
    "Do wide networks still learn features?",
    "kernel drift",
    "the kernel drift",
    _DRIFT,
)
DRIFT_OVER_STEPS = PerLayer(
    "kernel_drift",
    "features.drift",
    "How far do features move?",
    "kernel drift",
    "last hidden layer",
    _DRIFT,
)


def lacks_widths(view: View, what: PerLayer) -> str:
    """A study needs the quantity at several widths."""
    return lacks(view, what) if view.several(WIDTH) else "runs at two widths or more"


def draw(view: View, what: PerLayer) -> Drawn:
    """Median and range over seeds at the last step, with one learning rate for all widths of a panel."""
    names = view.layered(what.prefix)
    panels = Panels.of(view.runs, view.without(WIDTH))
    picture, axes = panels.figure(share_y=False)
    parts: list[tuple[str, str]] = []
    rows: list[dict[str, object]] = []
    powers: list[float] = []
    for ax, panel in zip(axes, panels.shown, strict=True):
        rate = common_rate(panel.runs, WIDTH)
        steps = view.steps(panel.runs[panel.runs[RATE] == rate], names)
        known: dict[str, float] = {}
        for name in names:
            data = _ends(steps, name)
            if data.empty:
                continue
            k = draw_layer(ax, name, data, len(names), size=4.5)
            power = _power(data)
            if not math.isnan(power):
                known[name] = power
            for width, row in zip(data.index, data.to_dict("records"), strict=True):
                head = {"panel": panel.title or "all", "layer": k, "learning rate η": rate}
                rows.append(head | {axis_label(WIDTH): width} | row | {"power of m": power})
        powers += known.values()
        parts.append((panel.title, _powers(known, rate)))
        log_axis(ax, "x", at=values(panel.runs, WIDTH))
        log_axis(ax, "y")
    panels.label(axes, axis_label(WIDTH), what.axis)
    key_of_lines(picture, axes)
    widths = values(view.runs, WIDTH)
    opening = (
        f"Between m = {number(widths[0])} and {number(widths[-1])}, {what.subject} goes like m^s with s "
    )
    said = sentence_of(parts, opening=opening) or opening + _all_powers(powers, len(panels.shown))
    caption = (
        f"{what.meaning}, at the last measured step, against base width: median and range over seeds, at one "
        "learning rate for all widths, stable at each where there is one. A power of m of 0 means the same "
        "at every width."
    )
    notes = (*panels.notes, *seed_note([row["seeds"] for row in rows]))
    return Drawn(what.name, what.title, said, caption, notes, pd.DataFrame(rows), picture)


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
    at = f" at η = {number(rate)}"
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


def _drift(view: View) -> Drawn:
    """Draw against width if a study has several, else against step."""
    if view.several(WIDTH):
        return draw(view, DRIFT_OVER_WIDTH)
    return against_step.draw(view, DRIFT_OVER_STEPS)


COORDINATE_CHECK = Recipe(
    COORDINATES.name,
    COORDINATES.title,
    partial(lacks_widths, what=COORDINATES),
    partial(draw, what=COORDINATES),
)
KERNEL_DRIFT = Recipe(
    DRIFT_OVER_WIDTH.name, DRIFT_OVER_WIDTH.title, partial(lacks, what=DRIFT_OVER_WIDTH), _drift
)
