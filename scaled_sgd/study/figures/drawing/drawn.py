"""What a figure is: a picture, what it shows in a sentence, and the numbers behind it."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from scaled_sgd.study.figures.drawing.style import PNG_DPI, STYLE
from scaled_sgd.study.figures.reading.view import View


@dataclass(frozen=True)
class Drawn:
    """A figure of one study.

    Attributes:
        name: of its files.
        title: the question it answers.
        sentence: what it shows, with numbers computed from the data.
        caption: how to read it: axes, marks, what is averaged over what.
        notes: what limits the statement, each a sentence: ends of grids, few seeds, runs left out.
        table: the numbers behind it.
        picture: the drawing.
    """

    name: str
    title: str
    sentence: str
    caption: str
    notes: tuple[str, ...]
    table: pd.DataFrame
    picture: Figure

    @property
    def alt(self) -> str:
        """The figure for who cannot see it."""
        return f"{self.title} {self.caption} {self.sentence}"

    def settled(self) -> "Drawn":
        """This figure, laid out once, so that all its files are alike."""
        layout = self.picture.get_layout_engine()
        if layout is not None:
            layout.execute(self.picture)
            self.picture.set_layout_engine("none")
        return self

    def png(self) -> bytes:
        """The picture as PNG, the same bytes every time."""
        return self._rendered("png", dpi=PNG_DPI, metadata={"Software": None})

    def svg(self) -> bytes:
        """The picture as SVG, the same bytes every time."""
        return self._rendered("svg", metadata={"Date": None, "Creator": None})

    def _rendered(self, kind: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        with rc_context(STYLE):
            self.picture.savefig(stream, format=kind, **options)
        return stream.getvalue()


@dataclass(frozen=True)
class Recipe:
    """How to draw one figure.

    Attributes:
        name: as ``report:`` of a study file gives it.
        title: the question it answers.
        lacks: why a study cannot have it; empty where it can.
        draw: the figure of a study that lacks nothing.
    """

    name: str
    title: str
    lacks: Callable[[View], str]
    draw: Callable[[View], Drawn]
