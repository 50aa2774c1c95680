"""Columns that quantities add to a row, and how studies draw them. Does not import torch."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """How a study draws a column. What is empty follows from the column's name and meaning.

    Attributes:
        name: its name in ``report:`` of a study file, and of its files.
        title: the question it answers.
        axis: the y label.
        subject: subject of the sentence of a figure against width.
        meaning: what is drawn, for the caption.
        against: what is drawn along x: steps, at the best learning rate, or widths, at the last step.
        title_over_steps: the question where a study has one width only, so that a figure against width is
            drawn over steps; empty: such a study lacks the figure.
    """

    name: str = ""
    title: str = ""
    axis: str = ""
    subject: str = ""
    meaning: str = ""
    against: Literal["steps", "width"] = "steps"
    title_over_steps: str = ""


@dataclass(frozen=True)
class Column:
    """One key of a row; nested keys are joined by dots.

    Attributes:
        name: its name, such as ``taylor.c1``.
        meaning: what the number is, with its unit if it has one.
        layers: whether it is one number, or a list with one per layer or hidden layer.
        figure: how studies draw it; None: in tables only, or in a figure with others.
        label: what axes, legends and sentences call it, with its symbol; empty: what the figure's axis says.
    """

    name: str
    meaning: str
    layers: Literal["none", "all", "hidden"] = "none"
    figure: Figure | None = Figure()
    label: str = ""

    @property
    def words(self) -> str:
        """The label; without one and without a figure that has one, the words of the name."""
        axis = self.figure.axis if self.figure is not None else ""
        return self.label or axis or self.name.replace("_", " ").replace(".", " ")

    @property
    def drawn(self) -> Figure | None:
        """The figure with everything filled in."""
        if self.figure is None:
            return None
        figure, words = self.figure, self.words
        return replace(
            figure,
            name=figure.name or self.name.replace(".", "_"),
            title=figure.title or f"What becomes of the {words} in training?",
            axis=figure.axis or words,
            subject=figure.subject or f"the {words}",
            meaning=figure.meaning or self.meaning,
        )
