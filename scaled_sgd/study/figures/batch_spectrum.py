"""Densities of the eigenvalues of minibatches' Hessians, a line for each batch size, at two steps."""

import numpy as np
import pandas as pd

from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.drawing.panels import Panel, Panels, key_of_lines
from scaled_sgd.study.figures.drawing.style import log_axis, ordered
from scaled_sgd.study.figures.reading.over_steps import at_best_rate
from scaled_sgd.study.figures.reading.rates import at_common_rate, seed_note
from scaled_sgd.study.figures.reading.view import SEED, WIDTH, View, groups, label
from scaled_sgd.study.figures.reading.words import number, sentence_of, spread

_TITLE = "Which eigenvalues have the Hessians of minibatches?"
_BATCH = "optim.batch_size"
_NODES, _WEIGHTS = "batch_spectrum.nodes.", "batch_spectrum.weights."
_POINTS = 600
_BROAD = 0.01
"""Standard deviation of a node, in ranges of the panel's nodes."""
_DECADES = 7
"""Of density, from the highest down."""


def lacks(view: View) -> str:
    """A study needs the quantity."""
    return "" if view.has(f"{_NODES}1", "batch_eigenvalue") else "batch_spectrum in diagnostics.quantities"


def draw(view: View) -> Drawn:
    """The first and the last measured step of each method, at one rate for all batch sizes."""
    measured = view.runs[view.runs["id"].isin(view.metrics.dropna(subset=[f"{_NODES}1"])["id"])]
    methods = Panels.of(measured, view.without(_BATCH, WIDTH), most=3)
    columns = [name for name in view.metrics if name.startswith((_NODES, _WEIGHTS))]
    panels, rates = [], {}
    for method in methods.shown:
        chosen, rate = (
            at_common_rate(method.runs, _BATCH) if _BATCH in view.varied else at_best_rate(method.runs)
        )
        steps = view.steps(chosen, ["batch_eigenvalue", *columns])
        for step in dict.fromkeys((steps["step"].min(), steps["step"].max())):
            title = " · ".join(filter(None, (method.title, f"step {step}")))
            panels.append(Panel(title, (), steps[steps["step"] == step]))
            rates[title] = rate
    shown = Panels(tuple(panels), min(2, len(panels)), methods.notes)
    picture, axes = shown.figure(share_y=False)
    rows: list[dict[str, object]] = []
    for ax, panel in zip(axes, shown.shown, strict=True):
        nodes = [name for name in columns if name.startswith(_NODES)]
        low, high = panel.runs[nodes].min().min(), panel.runs[nodes].max().max()
        width = _BROAD * (high - low) or 1.0
        grid = np.linspace(low - 3 * width, high + 3 * width, _POINTS)
        lines = list(groups(panel.runs, [_BATCH] if _BATCH in view.varied else []))
        for place, (key, runs) in enumerate(lines):
            name = label(_BATCH, key[0]) if key else ""
            density = np.mean([_density(run, nodes, grid, width) for _, run in runs.iterrows()], axis=0)
            top = float(runs["batch_eigenvalue"].median())
            look = ordered(place, len(lines))
            ax.plot(grid, density, color=look["color"], label=name or None)
            ax.plot([top], [np.interp(top, grid, density)], markersize=6, linestyle="", **look)
            head = {"panel": panel.title, "line": name or "all", "learning rate η": rates[panel.title]}
            rows.append(head | {"mean largest eigenvalue": top, "seeds": runs[SEED].nunique()})
        log_axis(ax, "y")
        highest = max(float(np.max(line.get_ydata())) for line in ax.get_lines())
        ax.set_ylim(highest * 10.0**-_DECADES, highest * 3)
    shown.label(axes, "eigenvalue", "density")
    key_of_lines(picture, axes)
    table = pd.DataFrame(rows)
    said = sentence_of(
        [(str(title), _ends(lines)) for title, lines in table.groupby("panel", sort=False)],
        opening="From the smallest to the largest minibatches, the mean largest eigenvalue goes ",
    )
    caption = (
        "Mean density of the eigenvalues of the Hessians of fresh minibatches, by stochastic Lanczos "
        "quadrature with nodes broadened to Gaussians of a hundredth of the range, at one learning rate; "
        f"{spread(view.seeds)}. A mark is the mean largest eigenvalue. The peak at 0 is all that a minibatch "
        "does not see."
    )
    notes = (*shown.notes, *seed_note(table["seeds"].tolist()))
    said = said or "The table has each panel."
    return Drawn("batch_spectrum", _TITLE, said, caption, notes, table, picture)


def _density(run: pd.Series, nodes: list[str], grid: np.ndarray, width: float) -> np.ndarray:
    """The density on ``grid`` (points,) of one measurement, nodes broadened to Gaussians."""
    at = run[nodes].to_numpy(dtype="float64")
    shares = run[[name.replace(_NODES, _WEIGHTS) for name in nodes]].to_numpy(dtype="float64")
    at, shares = at[np.isfinite(at)], shares[np.isfinite(at)]
    bumps = np.exp(-0.5 * ((grid[:, None] - at) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    found: np.ndarray = bumps @ shares
    return found


def _ends(lines: pd.DataFrame) -> str:
    tops = lines["mean largest eigenvalue"]
    rate = float(lines["learning rate η"].iloc[0])
    at = "at the best rate of each" if np.isnan(rate) else f"at η = {number(rate)}"
    return f"from {number(tops.iloc[0])} to {number(tops.iloc[-1])} {at}"


BATCH_SPECTRUM = Recipe("batch_spectrum", _TITLE, lacks, draw)
