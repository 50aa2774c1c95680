"""The figure of a diagnostic's column, as its entry in the registry of diagnostics says."""

from dataclasses import replace
from functools import partial

from scaled_sgd.diagnostics.columns import Column
from scaled_sgd.study.figures import against_step, against_width
from scaled_sgd.study.figures.drawing.drawn import Drawn, Recipe
from scaled_sgd.study.figures.reading.view import WIDTH, View


def column_recipe(column: Column) -> Recipe:
    """How to draw a column that has a figure."""
    figure = column.drawn
    assert figure is not None
    return Recipe(figure.name, figure.title, partial(_lacks, column=column), partial(_draw, column=column))


def _lacks(view: View, column: Column) -> str:
    """A study needs the quantity, at several widths where it is drawn against width only."""
    figure = column.drawn
    assert figure is not None
    if figure.against == "width" and not figure.title_over_steps and not view.several(WIDTH):
        return "runs at two widths or more"
    return "" if view.lines(column) else f"{column.name} in the metrics (diagnostics.every)"


def _draw(view: View, column: Column) -> Drawn:
    figure = column.drawn
    assert figure is not None
    if figure.against == "steps":
        return against_step.draw(view, column, figure)
    if figure.title_over_steps and not view.several(WIDTH):
        return against_step.draw(view, column, replace(figure, title=figure.title_over_steps))
    return against_width.draw(view, column, figure)
