"""A quantity of every layer at the last measured step against width, with its power of the width."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaled_sgd.study.figures.drawn import Drawn, Recipe
from scaled_sgd.study.figures.over_steps import last
from scaled_sgd.study.figures.panels import Panels, key_of_lines
from scaled_sgd.study.figures.rates import common_rate, seed_note
from scaled_sgd.study.figures.style import BAND, log_axis, ordered
from scaled_sgd.study.figures.view import RATE, SEED, WIDTH, View, groups, values
from scaled_sgd.study.figures.words import axis_label, number, sentence_of, span


@dataclass(frozen=True)
class PerWidth:
    """A quantity per layer whose power of the width is what is asked for.

    Attributes:
        name: of the figure.
        prefix: of its columns.
        title: the question.
        axis: its y label.
        subject: for the sentence.
        meaning: for the caption.
    """

    name: str
    prefix: str
    title: str
    axis: str
    subject: str
    meaning: str


COORDINATES = PerWidth(
    "coordinate_check",
    "preactivation_change",
    "Do preactivations move as much at every width?",
    "relative change",
    "the relative change of preactivations",
    "RMS(z_k − z_k at step 0) / RMS(z_k at step 0) of every layer on a fixed probe",
)


def lacks(view: View, what: PerWidth) -> str:
    """A study needs the quantity, at several widths."""
    if WIDTH not in view.varied or view.runs[WIDTH].nunique() < 2:
        return "runs at two widths or more"
    return "" if view.layered(what.prefix) else f"{what.prefix} in the metrics (diagnostics.every)"


def draw(view: View, what: PerWidth) -> Drawn:
    """Median and range over seeds at one learning rate for all widths of a panel."""
    names = view.layered(what.prefix)
    panels = Panels.of(view.runs, view.without(WIDTH))
    picture, axes = panels.figure(share_y=False)
    parts: list[tuple[str, str]] = []
    rows: list[dict[str, object]] = []
    powers: list[float] = []
    for ax, panel in zip(axes, panels.shown, strict=True):
        rate = common_rate(panel.runs, WIDTH)
        chosen = panel.runs[panel.runs[RATE] == rate]
        steps = view.steps(chosen, names)
        found = {name: _ends(steps, name) for name in names}
        found = {name: data for name, data in found.items() if len(data)}
        fits = {name: _power(data) for name, data in found.items()}
        for name, data in found.items():
            k = int(name.rpartition(".")[2])
            look = ordered(k - 1, len(names))
            ax.plot(data[WIDTH], data["median"], label=f"layer {k}", **look)
            ax.fill_between(
                data[WIDTH], data["low"], data["high"], color=look["color"], alpha=BAND, linewidth=0
            )
            for row in data.to_dict("records"):
                rows.append(
                    {"panel": panel.title or "all", "layer": k, "learning rate η": rate}
                    | {axis_label(WIDTH): row.pop(WIDTH)}
                    | row
                    | {"power of m": fits[name]}
                )
        known = {name: power for name, power in fits.items() if not math.isnan(power)}
        powers += known.values()
        parts.append((panel.title, _words(known, rate)))
        _axes(ax, panel.runs)
    panels.label(axes, axis_label(WIDTH), what.axis)
    key_of_lines(picture, axes)
    widths = values(view.runs, WIDTH)
    opening = (
        f"Between m = {number(widths[0])} and {number(widths[-1])}, {what.subject} goes like m^s with s "
    )
    said = sentence_of(parts, opening=opening) or _many(opening, panels, powers)
    caption = (
        f"{what.meaning}, at the last measured step, against base width: median and range over seeds, at one "
        "learning rate for all widths, stable at each where there is one. A power of m of 0 means the same "
        "at every width."
    )
    notes = [panels.left_out] if panels.left_out else []
    notes += seed_note([row["seeds"] for row in rows])
    return Drawn(what.name, what.title, said, caption, tuple(notes), pd.DataFrame(rows), picture)


def _ends(steps: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = []
    for (width,), here in groups(steps.dropna(subset=[name]), [WIDTH]):
        ending = last(here, name)
        rows.append(
            {
                WIDTH: width,
                "step": int(here["step"].max()),
                "median": float(ending.median()),
                "low": float(ending.min()),
                "high": float(ending.max()),
                "seeds": int(here[SEED].nunique()),
            }
        )
    return pd.DataFrame(rows)


def _power(data: pd.DataFrame) -> float:
    """s of the least-squares line log median = s log m + c."""
    known = data[data["median"] > 0]
    if len(known) < 2:
        return math.nan
    return float(np.polyfit(np.log(known[WIDTH]), np.log(known["median"]), 1)[0])


def _words(powers: dict[str, float], rate: float) -> str:
    if not powers:
        return "unknown, too few widths being measured,"
    low, high = min(powers, key=powers.__getitem__), max(powers, key=powers.__getitem__)
    at = f" at η = {number(rate)}"
    if _signed(powers[low]) == _signed(powers[high]):
        return f"= {_signed(powers[low])}{at}"
    layers = [name.rpartition(".")[2] for name in (low, high)]
    return (
        f"from {_signed(powers[low])} (layer {layers[0]}) to {_signed(powers[high])} (layer {layers[1]}){at}"
    )


def _many(opening: str, panels: Panels, powers: list[float]) -> str:
    if not powers:
        return f"{opening}unknown: too few widths were measured."
    flat = sum(abs(power) < 0.25 for power in powers)
    return (
        f"{opening}from {span(round(power, 2) for power in powers)} over "
        f"{len(panels.shown)} panels; |s| is below 0.25 for {flat} of {len(powers)} layers."
    )


def _signed(power: float) -> str:
    return f"{power:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _axes(ax: Axes, runs: pd.DataFrame) -> None:
    log_axis(ax, "x", at=values(runs, WIDTH))
    log_axis(ax, "y")


RECIPE = Recipe(
    COORDINATES.name, COORDINATES.title, partial(lacks, what=COORDINATES), partial(draw, what=COORDINATES)
)
