"""A quantity of every layer, and the line of one."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from scaled_sgd.study.figures.drawing.style import curve, ordered
from scaled_sgd.study.figures.reading.view import View


@dataclass(frozen=True)
class PerLayer:
    """A quantity per layer.

    Attributes:
        name: of the figure.
        prefix: of its columns.
        title: the question.
        axis: its y label.
        subject: whose change a sentence tells.
        meaning: for the caption.
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
    """A line with its band; returns which layer it is."""
    k = int(name.rpartition(".")[2])
    curve(ax, data, ordered(k - 1, layers) | {"markersize": size}, label=f"layer {k}")
    return k
