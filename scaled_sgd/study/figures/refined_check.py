"""Refined coordinate check: do weights or features move preactivations, against width at several steps."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.lines import Line2D

from scaled_sgd.diagnostics.columns import Column
from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panel, Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import GREY, curve, log_axis, ordered
from scaled_sgd.study.figures.reading.rates import at_common_rate, said_at, seed_note
from scaled_sgd.study.figures.reading.view import SEED, WIDTH, View, layer_cell, values
from scaled_sgd.study.figures.reading.words import axis_label, number, sentence_of, spread

_TITLE = "Do weights or features move preactivations, and as much at every width?"
_PARTS = {"change_by_weights": "-", "change_by_features": (0, (3, 1.5))}
_MOST_STEPS = 4


def lacks(view: View) -> str:
    """A study needs both parts, at two widths or more."""
    if not view.several(WIDTH):
        return "runs at two widths or more"
    if not all(_lines(view).values()):
        return "from_start in diagnostics.quantities"
    return "" if _found(view)[0] else "measurements after step 0"


def draw(view: View) -> Drawn:
    """A panel for each of several steps; a row of them for each method."""
    lines = _lines(view)
    found, told = _found(view)
    shown = _steps(pd.concat([steps for *_, steps in found])["step"])
    titles = [
        Panel(" · ".join(filter(None, (group.title, f"step {step}"))), (), steps[steps["step"] == step])
        for group, _, steps in found
        for step in shown
    ]
    panels = Panels(tuple(titles), len(shown), told)
    picture, axes = panels.figure(share_y=True)
    rows: list[dict[str, object]] = []
    depth = len(lines["change_by_weights"])
    for ax, panel in zip(axes, panels.shown, strict=True):
        for part, layers in lines.items():
            for name, words in layers.items():
                data = _over_widths(panel.runs, name)
                place = int(name.rpartition(".")[2]) - 1
                look = ordered(place, depth) | {"linestyle": _PARTS[part], "markersize": 4}
                # Where features have not moved, their part is 0.
                curve(ax, data[data["median"] > 0], look, label=words)
                head = {"panel": panel.title, "part": part, **layer_cell(name, layers)}
                for width, row in zip(data.index, data.to_dict("records"), strict=True):
                    rows.append(head | {axis_label(WIDTH): width} | row)
        log_axis(ax, "x", at=values(view.runs, WIDTH))
        log_axis(ax, "y")
    panels.label(axes, axis_label(WIDTH), "relative change")
    extra = [
        Line2D([], [], color=GREY, linestyle=style, label=words)
        for words, style in zip(("by weights", "by features"), _PARTS.values(), strict=True)
    ]
    key_of_lines(picture, axes, extra=extra)
    table = pd.DataFrame(rows)
    said = sentence_of(
        [(group.title, _ends(steps, lines, rate)) for group, rate, steps in found],
        opening="At the last of these steps, from the smallest to the largest width, ",
    )
    caption = (
        "‖α_k (W_k − W_k at 0) h_{k−1}‖ (by weights) and ‖α_k W_k at 0 (h_{k−1} − h_{k−1} at 0)‖ (by "
        "features), over ‖z_k at 0‖, on a fixed probe, against base width at several steps, at one learning "
        f"rate for all widths where they have one in common; {spread(view.seeds)}. Level lines are "
        "the same at every width."
    )
    notes = (*told, *seed_note([row["seeds"] for row in rows]))
    return Drawn(
        "refined_coordinate_check",
        _TITLE,
        said or "The table has each panel.",
        caption,
        notes,
        table,
        picture,
    )


def _lines(view: View) -> dict[str, dict[str, str]]:
    """The lines of each part; features of the first layer are the inputs, which do not move."""
    found = {part: view.lines(Column(part, "", "all")) for part in _PARTS}
    found["change_by_features"].pop("change_by_features.1", None)
    return found


def _found(view: View) -> tuple[list[tuple[Panel, float, pd.DataFrame]], tuple[str, ...]]:
    """Each method with its rate and its measurements after step 0, where it has some; and notes."""
    groups = Panels.of(view.runs, view.without(WIDTH), most=3)
    names = [name for part in _lines(view).values() for name in part]
    found = []
    for group in groups.shown:
        chosen, rate = at_common_rate(group.runs, WIDTH)
        steps = view.steps(chosen, names)
        if (steps["step"] > 0).any():
            found.append((group, rate, steps))
    return found, groups.notes


def _steps(measured: pd.Series) -> list[int]:
    """Up to four of the steps after 0: the first, the last and those between, evenly."""
    steps = sorted(int(step) for step in measured.unique() if step > 0)
    count = min(_MOST_STEPS, len(steps))
    places = {round(i * (len(steps) - 1) / max(1, count - 1)) for i in range(count)}
    return [steps[place] for place in sorted(places)]


def _over_widths(steps: pd.DataFrame, name: str) -> pd.DataFrame:
    grouped = steps.dropna(subset=[name]).groupby(WIDTH)
    return pd.DataFrame(
        {
            "median": grouped[name].median(),
            "low": grouped[name].min(),
            "high": grouped[name].max(),
            "seeds": grouped[SEED].nunique(),
        }
    )


def _ends(steps: pd.DataFrame, lines: Mapping[str, Mapping[str, str]], rate: float) -> str:
    """Both parts in the last layer, at the smallest and the largest width."""
    last = steps[steps["step"] == steps["step"].max()]
    said = []
    for part, layers in lines.items():
        data = _over_widths(last, list(layers)[-1])["median"]
        words = part.removeprefix("change_by_")
        said.append(f"from {number(data.iloc[0])} to {number(data.iloc[-1])} by {words}")
    return f"the last layer's change goes {' and '.join(said)} {said_at(rate)}"


REFINED_CHECK = Recipe("refined_coordinate_check", _TITLE, lacks, draw)
