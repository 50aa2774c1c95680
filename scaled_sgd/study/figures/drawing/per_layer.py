"""Per-layer quantities and their lines."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from scaled_sgd.study.figures.drawing.style import curve, ordered
from scaled_sgd.study.figures.reading.view import View


@dataclass(frozen=True)
class PerLayer:
    """A per-layer quantity.

    Attributes:
        name: name of the figure.
        prefix: prefix of its columns.
        title: the question.
        axis: its y label.
        subject: subject of the figure's sentence.
        meaning: explanation for the caption.
    """

    name: str
    prefix: str
    title: str
    axis: str
    subject: str
    meaning: str


def lacks(view: View, what: PerLayer) -> str:
    """A study needs the quantity in its metrics."""
    return "" if view.layered(what.prefix) else f"{what.prefix} in the metrics (diagnostics.every)"


def draw_layer(ax: Axes, name: str, data: pd.DataFrame, layers: int, *, size: float = 3.5) -> int:
    """Draw a line with its band; returns its layer."""
    k = int(name.rpartition(".")[2])
    curve(ax, data, ordered(k - 1, layers) | {"markersize": size}, label=f"layer {k}")
    return k
