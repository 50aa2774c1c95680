"""The figure type: a picture, a sentence that says what it shows, and the numbers behind it."""

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
        name: name of its files.
        title: the question it answers.
        sentence: what it shows, with numbers computed from the data.
        caption: how to read it: axes, marks, what is averaged over what.
        notes: limitations, one sentence each: ends of grids, few seeds, omitted runs.
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
        """The alternative text."""
        return f"{self.title} {self.caption} {self.sentence}"

    def settled(self) -> "Drawn":
        """This figure with a fixed layout, so that all its files look the same."""
        layout = self.picture.get_layout_engine()
        if layout is not None:
            layout.execute(self.picture)
            # Not "none", which is an engine, too: each file would be drawn twice.
            self.picture.set_layout_engine(None)
        return self

    def png(self) -> bytes:
        """The picture as PNG; deterministic bytes."""
        return self._rendered("png", dpi=PNG_DPI, metadata={"Software": None})

    def svg(self) -> bytes:
        """The picture as SVG, with text as text; deterministic bytes."""
        return self._rendered("svg", metadata={"Date": None, "Creator": None})

    def pdf(self) -> bytes:
        """The picture as PDF, with text as text; deterministic bytes."""
        return self._rendered("pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})

    def _rendered(self, kind: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        with rc_context(STYLE):
            self.picture.savefig(stream, format=kind, **options)
        return stream.getvalue()


@dataclass(frozen=True)
class Recipe:
    """How to draw one figure.

    Attributes:
        name: its name in ``report:`` of a study file.
        title: the question it answers.
        lacks: why a study cannot have it; empty if it can.
        draw: draws the figure of a study that lacks nothing.
    """

    name: str
    title: str
    lacks: Callable[[View], str]
    draw: Callable[[View], Drawn]
