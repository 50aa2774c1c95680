"""Small multiples: which groups of runs get a panel, and where."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaled_sgd.study.figures.drawing.style import WIDTH_INCHES, set_mathtext
from scaled_sgd.study.figures.reading.view import groups, is_task, label, title, values
from scaled_sgd.study.figures.reading.words import balanced, listing, wrapped

MOST_PANELS = 12
_LETTER = 0.072
"""Width of a letter of 9 points in inches, on the safe side."""
_LEGEND = 40
"""Letters on a line of a legend."""
_LEGEND_ROW = 0.17
"""Height of a line of a legend in inches."""


@dataclass(frozen=True)
class Panel:
    """The runs of one panel.

    Attributes:
        title: values of its axes as text; empty for a single panel.
        key: these values.
        runs: its rows of the table of runs.
    """

    title: str
    key: tuple[Any, ...]
    runs: pd.DataFrame


@dataclass(frozen=True)
class Panels:
    """The panels of a figure, at most ``MOST_PANELS``.

    Attributes:
        shown: in reading order.
        columns: number of panels per row.
        notes: a sentence about values without a panel, if there are any.
    """

    shown: tuple[Panel, ...]
    columns: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, runs: pd.DataFrame, axes: Sequence[str], *, most: int = MOST_PANELS) -> "Panels":
        """A panel for each group of ``axes``.

        If there are too many, axes are fixed at one value, the middle number or the first name; axes that say
        how networks are trained are fixed last.
        """
        free, held = list(axes), []
        while len(free) > 1 and _count(runs, free) > most:
            axis = min(reversed(free), key=_weight)
            found = values(runs, axis)
            kept = found[(len(found) - 1) // 2 if is_task(axis) and axis != "loss" else 0]
            held.append(f"{label(axis, kept)} of {listing([label(axis, v) for v in found])}")
            runs = runs[runs[axis] == kept]
            free.remove(axis)
        found = [Panel(title(free, key), tuple(key), rows) for key, rows in groups(runs, free)]
        if len(found) > most:
            held.append(f"the first {most} of {len(found)} panels")
        notes = (f"Shown: {'; '.join(held)}.",) if held else ()
        return cls(tuple(found[:most]), _columns(runs, free, min(len(found), most)), notes)

    def figure(self, *, share_y: bool) -> tuple[Figure, list[Axes]]:
        """An empty figure with titled axes for each panel."""
        rows = math.ceil(len(self.shown) / self.columns)
        picture, width = self._empty(rows)
        grid = picture.subplots(rows, self.columns, squeeze=False, sharex=False, sharey=share_y)
        places = list(grid.flat)
        for unused in places[len(self.shown) :]:
            unused.remove()
        for ax, panel in zip(places, self.shown, strict=False):
            ax.set_title(wrapped(panel.title, self._room(width)), loc="left")
        return picture, places[: len(self.shown)]

    def _empty(self, rows: int, *, height: float = 1.0) -> tuple[Figure, float]:
        """A figure for ``rows`` rows, ``height`` times as high as usual, and its width in inches."""
        # One panel is for a column of 8.5 cm, where 9 points become 6.6.
        width = min(WIDTH_INCHES, 4.6 if self.columns == 1 else 4.5 * self.columns)
        height *= {1: 3.0, 2: 3.0, 3: 2.6}.get(self.columns, 2.3)
        picture = Figure(figsize=(width, height * rows + 0.5), layout="constrained")
        layout: Any = picture.get_layout_engine()
        layout.set(w_pad=0.06, h_pad=0.06)
        return picture, width

    def _room(self, width: float) -> int:
        """The number of letters of a title."""
        return int((width / self.columns - 0.55) / _LETTER)

    def figure_of_two(self) -> tuple[Figure, list[Axes], list[Axes]]:
        """An empty figure with two axes for each panel: the lower ones, and smaller titled ones above."""
        rows = math.ceil(len(self.shown) / self.columns)
        picture, width = self._empty(rows, height=1.6)
        grid = picture.add_gridspec(2 * rows, self.columns, height_ratios=[2, 3] * rows)
        below, above = [], []
        for position, panel in enumerate(self.shown):
            row, column = divmod(position, self.columns)
            below.append(picture.add_subplot(grid[2 * row + 1, column]))
            upper = picture.add_subplot(grid[2 * row, column], sharex=below[-1])
            upper.tick_params(labelbottom=False)
            upper.set_title(wrapped(panel.title, self._room(width)), loc="left")
            above.append(upper)
        return picture, below, above

    def label_first(self, axes: Sequence[Axes], y: str) -> None:
        """Label y beside the first panel of each row."""
        for ax in axes[:: self.columns]:
            picture = ax.get_figure(root=True)
            assert picture is not None
            inches = ax.get_window_extent().height / picture.dpi
            set_mathtext(ax.yaxis.label, balanced(y, int(inches / _LETTER)))

    def label(self, axes: Sequence[Axes], x: str, y: str) -> None:
        """Label x below the lowest panel of each column and y beside the first panel of each row."""
        for position, ax in enumerate(axes):
            if position + self.columns >= len(axes):
                set_mathtext(ax.xaxis.label, x)
        self.label_first(axes, y)


def key_of_lines(
    picture: Figure,
    axes: Sequence[Axes],
    heading: str = "",
    *,
    order: Sequence[str] = (),
    extra: Sequence[Any] = (),
) -> None:
    """One legend below all panels, every label once: those of ``order`` first, ``extra`` handles last.

    Labels of ``extra`` are the package's: their symbols are shown as mathematics.
    """
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    handles = {text: handles[text] for text in order if text in handles} | handles
    for handle in extra:
        handles.setdefault(handle.get_label(), handle)
    if not handles:
        return
    shown = [wrapped(text, _LEGEND) for text in handles]
    inches = [0.58 + 0.062 * max(len(line) for line in text.split("\n")) for text in shown]
    fitting = len(handles)
    while fitting > 1 and not _fits(inches, fitting, picture):
        fitting -= 1
    rows = math.ceil(len(handles) / fitting)
    columns = math.ceil(len(handles) / rows)
    # A long legend is not at the cost of the panels.
    below = picture.get_figheight() + _LEGEND_ROW * max(0, rows + bool(heading) - 2)
    picture.set_figheight(below)
    legend = picture.legend(
        handles.values(),
        shown,
        loc="outside lower center",
        ncols=columns,
        title=heading or None,
    )
    own = {handle.get_label() for handle in extra}
    for text in legend.get_texts():
        if text.get_text() in own:
            set_mathtext(text, text.get_text())


def _fits(inches: Sequence[float], columns: int, picture: Figure) -> bool:
    """Whether a legend with this many columns, filled column by column, fits the width of the figure."""
    rows = math.ceil(len(inches) / columns)
    width = sum(max(inches[start : start + rows]) for start in range(0, len(inches), rows))
    return bool(width <= picture.get_figwidth())


def _count(runs: pd.DataFrame, axes: Sequence[str]) -> int:
    return len(runs[list(axes)].drop_duplicates())


def _weight(axis: str) -> int:
    """How important separate panels are for an axis."""
    order = ("matching", "model.width_exponent", "model.depth", "model.base_width", "loss")
    if axis in order:
        return 1 + order.index(axis)
    return 0 if is_task(axis) else 6


def _columns(runs: pd.DataFrame, axes: Sequence[str], panels: int) -> int:
    if len(axes) > 1:
        last = len(values(runs, axes[-1]))
        if last <= 4 and panels == last * (panels // last):
            return last
    return panels if panels <= 3 else 2 if panels == 4 else 3
