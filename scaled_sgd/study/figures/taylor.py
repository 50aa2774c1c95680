"""Does the Taylor polynomial of a step predict the change of the loss?"""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panels, key_of_lines
from scaled_sgd.study.figures.drawing.signed import around_diagonal
from scaled_sgd.study.figures.drawing.style import GREY, category
from scaled_sgd.study.figures.reading.view import DEPTH, RATE, SEED, STEP_LOSS, WIDTH, View
from scaled_sgd.study.figures.reading.words import count, number, sentence_of, share

_TITLE = "Does the Taylor polynomial of a step predict what the loss does?"
_COLUMNS = ("predicted_loss", STEP_LOSS, "loss_after")
_MOST_POINTS = 1500
_CLASSES = ("before the edge", "beyond the edge", "edge not measured")
_WHERE = {"edge not measured": "where the edge was not measured"}


def lacks(view: View) -> str:
    """A study needs predicted and actual losses."""
    return "" if view.has(*_COLUMNS) else "predicted_loss and loss_after in the metrics (diagnostics.every)"


def draw(view: View) -> Drawn:
    """One point per measured step; the diagonal is a perfect prediction."""
    stable = view.runs[view.runs["stable"]]
    changes = _changes(view, stable)
    everything = changes.empty
    if everything:
        changes = _changes(view, view.runs)
    panels = Panels.of(changes, view.without(WIDTH, DEPTH))
    picture, axes = panels.figure(share_y=False)
    dropped = 0
    rows: list[dict[str, object]] = []
    parts: list[tuple[str, str]] = []
    for ax, panel in zip(axes, panels.shown, strict=True):
        dropped += _panel(ax, panel.runs)
        found = [_row(panel.title, name, panel.runs[panel.runs["class"] == name]) for name in _CLASSES]
        rows += [row for row in found if row["steps"]]
        parts.append((panel.title, _words(panel.runs, found)))
    panels.label(axes, "actual change of the loss", "predicted change")
    key_of_lines(picture, axes)
    said = sentence_of(parts, opening="The prediction has the right sign in ") or _overall(changes)
    notes = list(panels.notes)
    if everything:
        notes.append("No run is stable: the steps of all runs are shown.")
    elif len(stable) < len(view.runs):
        notes.append(f"Of {count(len(view.runs), 'run')} the {len(stable):,} stable ones are shown.")
    if dropped:
        notes.append(f"{dropped:,} of {len(changes):,} points are not drawn; the numbers are of all.")
    caption = (
        "Change of the minibatch loss over one update, predicted by the Taylor polynomial of third order "
        "against what came, a point a measured step; the line is a perfect prediction. Colour: whether "
        "η λ / 2, with λ the preconditioned sharpness, is below or above 1. Axes are linear around 0."
    )
    return Drawn("taylor", _TITLE, said, caption, tuple(notes), pd.DataFrame(rows), picture)


def _changes(view: View, runs: pd.DataFrame) -> pd.DataFrame:
    edge = ["edge_ratio"] if "edge_ratio" in view.metrics else []
    steps = view.steps(runs, [*_COLUMNS, *edge]).dropna(subset=list(_COLUMNS))
    ratio = steps["edge_ratio"] if edge else pd.Series(math.nan, index=steps.index)
    kind = np.select([ratio <= 1, ratio > 1], _CLASSES[:2], _CLASSES[2])
    steps = steps.assign(
        predicted=steps["predicted_loss"] - steps[STEP_LOSS], actual=steps["loss_after"] - steps[STEP_LOSS]
    )
    steps["class"] = kind
    return steps.sort_values([RATE, SEED, "step"], kind="stable")


def _panel(ax: Axes, points: pd.DataFrame) -> int:
    """Draw a panel; returns the number of omitted points."""
    stride = math.ceil(len(points) / _MOST_POINTS)
    drawn = points.iloc[::stride]
    for position, name in enumerate(_CLASSES):
        mine = drawn[drawn["class"] == name]
        if len(mine):
            color = GREY if position == 2 else category(position)["color"]
            marker = category(position)["marker"]
            ax.plot(
                mine["actual"], mine["predicted"], linestyle="", marker=marker, markersize=3.2, alpha=0.55,
                color=color, markeredgewidth=0, label=name, rasterized=True,
            )  # fmt: skip
    around_diagonal(ax, points[["actual", "predicted"]].to_numpy())
    return len(points) - len(drawn)


def _row(panel: str, name: str, points: pd.DataFrame) -> dict[str, object]:
    errors = _errors(points)
    return {
        "panel": panel or "all",
        "steps that are": name,
        "steps": len(points),
        "right sign": float(_right(points).mean()) if len(points) else math.nan,
        "relative error, median": float(np.median(errors)) if len(errors) else math.nan,
        "relative error, 90 %": float(np.quantile(errors, 0.9)) if len(errors) else math.nan,
    }


def _errors(points: pd.DataFrame) -> Any:
    actual = points["actual"].to_numpy()
    moved = actual != 0
    return np.abs(points["predicted"].to_numpy()[moved] - actual[moved]) / np.abs(actual[moved])


def _right(points: pd.DataFrame) -> pd.Series:
    return np.sign(points["predicted"]) == np.sign(points["actual"])


def _words(points: pd.DataFrame, classes: list[dict[str, object]]) -> str:
    errors = [
        f"{number(row['relative error, median'], 2)} {_WHERE.get(str(name := row['steps that are']), name)}"
        for row in classes
        if row["steps"]
    ]
    return (
        f"{share(_right(points).mean())} of {count(len(points), 'step')} (median relative error "
        f"{' and '.join(errors)})"
    )


def _overall(changes: pd.DataFrame) -> str:
    found = [_row("", name, changes[changes["class"] == name]) for name in _CLASSES]
    return f"Over all panels the prediction has the right sign in {_words(changes, found)}."


TAYLOR = Recipe("taylor", _TITLE, lacks, draw)
