"""A number over the runs of a study, as a study file declares it: a measure, and which runs it is of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaled_sgd.config import KEYS
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.registry import Registry
from scaled_sgd.study.claims.labels import column_label


@dataclass(frozen=True)
class RunMeasure:
    """A number over some runs.

    Attributes:
        label: what it is, with ``{column}`` for a column's name.
        of: the function that computes it, as ``module:name``: of these runs' rows of the table of runs and of
            that of metrics, and of the column.
        needs_column: whether it is of a column.
    """

    label: str
    of: str | Callable[..., float]
    needs_column: bool = True


MEASURES: Registry[RunMeasure] = Registry("measure")
for _name, _label, _needs in (
    ("first", "first {column}", True),
    ("last", "last {column}", True),
    ("largest", "largest {column}", True),
    ("rise", "largest {column} over the first", True),
    ("fall", "last {column} over the largest", True),
    ("last_over_first", "last {column} over the first", True),
    ("late_median", "median of {column} in the last half of training", True),
    ("late_edge", "median of η · {column} / 2 in the last half of training", True),
    (
        "step_above_half",
        "step at which {column} is half of the way from its first to its largest value",
        True,
    ),
    ("progress_at_half", "share of the last {column} at the step where accuracy is half of the way", True),
    ("time_power", "power of the step in {column}", True),
    ("result", "{column} of the run", True),
    ("held_out_gap", "held-out over training loss at the end", False),
    ("final_loss", "final training loss", False),
    ("loss_fall", "final training loss over the first minibatch's", False),
    ("loss_peak", "largest minibatch loss over the first", False),
    ("rising_steps", "share of steps in which the loss rises", False),
    ("best_rate", "best learning rate η", False),
    ("best_loss", "final training loss at the best learning rate", False),
    ("best_last", "last {column} at the best learning rate", True),
    ("best_accuracy", "held-out accuracy at the rate where it is best", False),
    ("planned_memory", "predicted bytes of a fused step on one process", False),
    ("largest_stable_rate", "largest stable learning rate η", False),
    ("largest_trained_rate", "largest learning rate η with half of the best accuracy", False),
    ("trained_rate_in_curvatures", "that rate times the first {column}", True),
):
    MEASURES.add(_name, RunMeasure(_label, f"scaled_sgd.study.claims.measures:{_name}", _needs))
for _name, _label in (
    ("cycle_height", "height of λ over 2/η in the first cycle, predicted over measured"),
    ("cycle_rise", "steps from 2/η to the largest λ of that cycle, predicted over measured"),
):
    MEASURES.add(_name, RunMeasure(_label, f"scaled_sgd.study.claims.cycles:{_name}", needs_column=False))

STEP = "step"
"""In ``where``, steps of the metrics; in a figure, the axis."""

TAKES: Mapping[str, str] = {
    "power": "power of {axis}",
    "ratio": "last over first {axis}",
    "difference": "last minus first {axis}",
    "spread": "largest over smallest of all {axis}",
    "lowest": "lowest of all {axis}",
    "highest": "highest of all {axis}",
}
"""What becomes of a measure's values along an axis."""


@dataclass(frozen=True)
class RunQuantity:
    """A measure of the runs of some values of the axes.

    Attributes:
        measure: its name in :data:`MEASURES`.
        column: the column that it is of; empty for none.
        where: the values of axes, or of ``config.KEY``, and the steps of metrics, that are kept; all of
            others.
        along: the axis, or ``config.KEY``, for each of whose values the measure is taken; empty for none.
        take: what becomes of these, one of :data:`TAKES`; empty where ``along`` is.
    """

    measure: str
    column: str
    where: Mapping[str, tuple[Any, ...]]
    along: str
    take: str

    @property
    def title(self) -> str:
        """The measure as text."""
        return self.title_of(column_label(self.column) if self.column else "")

    def title_of(self, column: str) -> str:
        """The measure of what has this name, as text."""
        return MEASURES[self.measure].label.format(column=column)

    @property
    def words(self) -> str:
        """The quantity as text."""
        said = self.title
        if self.take:
            said += f": {TAKES[self.take].format(axis=self.along)}"
        if self.where:
            kept = (f"{name} {', '.join(map(str, values))}" for name, values in self.where.items())
            said += f" ({'; '.join(kept)})"
        return said


def read_quantity(place: str, found: Mapping[str, Any], axes: Sequence[str] | None) -> RunQuantity:
    """The quantity of a claim or a figure.

    Args:
        place: how messages name it.
        found: its keys, of which others are ignored.
        axes: names of the study's axes; None: any name may be one.

    Raises:
        UserError: an unknown measure, axis or way to take, or a column where none belongs.
    """
    measure, column, take = found.get("measure"), found.get("column", ""), found.get("take", "")
    if not isinstance(measure, str) or measure not in MEASURES:
        raise UserError(f"{place}.measure: {measure!r} is unknown; allowed: {', '.join(MEASURES)}")
    if not isinstance(column, str) or bool(column) != MEASURES[measure].needs_column:
        allowed = "the name of a column" if MEASURES[measure].needs_column else f"none with {measure}"
        raise UserError(f"{place}.column: {column!r} is not usable; allowed: {allowed}")
    where, along = found.get("where", {}), found.get("along", "")
    if not isinstance(where, dict):
        raise UserError(f"{place}.where: {where!r} is not usable; allowed: {{axis: value or list of values}}")
    if STEP in where and not column:
        raise UserError(f"{place}.where: step needs a column of the metrics; allowed with {measure}: axes")
    for axis in (*(axis for axis in where if axis != STEP), *([along] if along else [])):
        if not is_axis(axis, axes):
            allowed = ", ".join((*(axes or ()), "config.KEY"))
            raise UserError(f"{place}: {axis!r} is no axis of the study; allowed: {allowed}")
    if take and take not in TAKES:
        raise UserError(f"{place}.take: {take!r} is unknown; allowed: {', '.join(TAKES)}")
    kept = {axis: tuple(values if isinstance(values, list) else [values]) for axis, values in where.items()}
    return RunQuantity(measure, column, kept, along, take)


def is_axis(name: object, axes: Sequence[str] | None) -> bool:
    """Whether this is one of ``axes`` (None: of any), or ``config.KEY``."""
    if not isinstance(name, str):
        return False
    return axes is None or name in axes or (name.startswith("config.") and name[7:] in KEYS)
