"""The view of a study for figures: roles of axes, labels of their values, one loss for comparison."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from scaled_sgd.diagnostics.columns import Column
from scaled_sgd.study.figures.reading.words import value_label
from scaled_sgd.study.tables.collect import Collected

RATE, WIDTH, DEPTH, SEED = "optim.lr", "model.base_width", "model.depth", "run.seed"
IN_EDGES = "optim.lr_in_edges"
FINAL = "final"
"""Column of the loss for comparing runs; infinite for a run without a loss."""

STEP_LOSS = "minibatch loss"
"""Column of a step's loss."""

_ROLES = (RATE, WIDTH, DEPTH, SEED)
_TASK = (WIDTH, DEPTH, "model.width_exponent", "matching", "loss", "model.activation", "model.dtype")
_LOSSES = {"mse": "½‖f − y‖²", "cross_entropy": "cross-entropy, nats"}


@dataclass(frozen=True)
class View:
    """A study in the form that figures use.

    Attributes:
        plain: the table of runs as collected, with plain values of axes.
        runs: the table of runs. Columns RATE, WIDTH, DEPTH, SEED and FINAL always exist, as numbers;
            other varied axes are ordered categories of labels.
        metrics: the table of metric streams, with STEP_LOSS for ``loss``.
        varied: axes with more than one value, in the study's order, without RATE, SEED and those that
            another axis determines (zipped ones).
        objective: the meaning of FINAL as text.
        in_edges: whether RATE is in units of 2/λ₀ of each run (``optim.lr_in_edges``).
    """

    plain: pd.DataFrame
    runs: pd.DataFrame
    metrics: pd.DataFrame
    varied: tuple[str, ...]
    objective: str
    in_edges: bool = False

    @classmethod
    def of(cls, collected: Collected) -> "View":
        """The view of a collected study."""
        runs, plan = collected.runs.copy(), collected.plan
        in_edges = IN_EDGES in plan and RATE not in plan
        if in_edges:
            runs, plan = (table.rename(columns={IN_EDGES: RATE}) for table in (runs, plan))
        for key in _ROLES:
            source = key if key in runs else f"config.{key}"
            runs[key] = pd.to_numeric(runs[source]) if source in runs else math.nan
        varied = _varied(plan)
        for axis in varied:
            if axis not in _ROLES:
                runs[axis] = pd.Categorical(
                    [value_label(axis, _plain(value)) for value in runs[axis]],
                    categories=_labels(axis, plan[axis]),
                    ordered=True,
                )
        column, objective = _objective(runs)
        final = runs[column].astype("float64")
        runs[FINAL] = final.where((runs["status"] == "finished") & final.notna(), math.inf)
        runs["stable"] = runs["stable"].fillna(False).astype(bool)
        # The loss of a step and the axis named loss are in one table.
        metrics = collected.metrics.rename(columns={"loss": STEP_LOSS})
        return cls(collected.runs, runs, metrics, varied, objective, in_edges)

    @property
    def methods(self) -> tuple[str, ...]:
        """Varied axes that say how a network is trained."""
        return tuple(axis for axis in self.varied if not is_task(axis))

    @cached_property
    def seeds(self) -> int:
        """The largest number of seeds behind a point."""
        groups = self.runs.groupby([*self.varied, RATE], observed=True, dropna=False)
        return int(groups[SEED].nunique().max()) if len(self.runs) else 0

    def without(self, *axes: str | None) -> tuple[str, ...]:
        """The varied axes except the given ones."""
        return tuple(axis for axis in self.varied if axis not in axes)

    def several(self, axis: str) -> bool:
        """Whether ended runs have at least two values of a varied axis."""
        return axis in self.varied and self.runs[axis].nunique() > 1

    def has(self, *columns: str) -> bool:
        """Whether the metrics have all of these columns, with at least one number each."""
        return all(name in self.metrics and self.metrics[name].notna().any() for name in columns)

    def lines(self, column: Column) -> dict[str, str]:
        """The lines that draw a diagnostic's column, named in the legend, by the metrics that have numbers.

        One per layer, ``soft_ranks.1``, ``soft_ranks.2``, …, or the column itself, without a name.
        """
        if column.layers == "none":
            return {column.name: ""} if self.has(column.name) else {}
        prefix = f"{column.name}."
        layers = {name: name.removeprefix(prefix) for name in self.metrics if name.startswith(prefix)}
        layers = {name: k for name, k in layers.items() if k.isdecimal() and self.has(name)}
        return {name: f"layer {layers[name]}" for name in sorted(layers, key=lambda name: int(layers[name]))}

    def steps(self, runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
        """Rows of these runs' metrics with any of ``columns``, and with step, lr, axes and roles.

        ``end`` is the last logged step of the run.
        """
        logged = self.metrics[list(dict.fromkeys(["id", "step", "lr", *columns]))]
        logged = logged.assign(end=logged.groupby("id")["step"].transform("max"))
        rows = logged.dropna(subset=list(columns), how="all")
        return rows.merge(runs[["id", *_ROLES, *self.without(*_ROLES)]], on="id", how="inner")

    def loss_label(self, runs: pd.DataFrame) -> str:
        """The objective with its unit, if these runs share one loss."""
        losses = set(runs["config.loss"]) if "config.loss" in runs else set()
        unit = _LOSSES.get(losses.pop()) if len(losses) == 1 else None
        return f"{self.objective} ({unit})" if unit else self.objective


def several_rates(view: View) -> bool:
    """Whether some network was trained at several learning rates by one method."""
    rates = view.runs.groupby([*view.varied], observed=True, dropna=False) if view.varied else None
    found = view.runs[RATE].nunique() if rates is None else rates[RATE].nunique().max()
    return bool(found > 1)


def layer_cell(name: str, lines: Mapping[str, str]) -> dict[str, int]:
    """The layer of one of :meth:`View.lines` as a cell of a table, if it has one."""
    return {"layer": int(name.rpartition(".")[2])} if lines[name] else {}


def is_task(axis: str) -> bool:
    """Whether an axis says what is trained, rather than how."""
    return axis in _TASK or axis.startswith("data.")


def values(frame: pd.DataFrame, axis: str) -> list[Any]:
    """The values of an axis among these rows, in order."""
    if isinstance(frame[axis].dtype, pd.CategoricalDtype):
        present = set(frame[axis])
        return [value for value in frame[axis].cat.categories if value in present]
    return sorted(frame[axis].dropna().unique().tolist())


def groups(frame: pd.DataFrame, axes: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Rows by the values of ``axes``, in order; all rows under () without axes."""
    if not axes:
        yield (), frame
        return
    yield from frame.groupby(list(axes), observed=True, sort=True)


def label(axis: str, value: Any) -> str:
    """A value in the view as text."""
    return value_label(axis, value) if axis in _ROLES else str(value)


def title(axes: Sequence[str], key: Sequence[Any]) -> str:
    """A group of :func:`groups` as text."""
    return " · ".join(label(axis, value) for axis, value in zip(axes, key, strict=True))


def _varied(plan: pd.DataFrame) -> tuple[str, ...]:
    many = [axis for axis in plan.columns[1:] if plan[axis].nunique(dropna=False) > 1]
    kept: list[str] = []
    # A method with a rate of its own is told by its name.
    for axis in sorted(many, key=lambda axis: 2 if axis == RATE else axis not in _ROLES):
        if not any((plan.groupby(k, dropna=False)[axis].nunique(dropna=False) == 1).all() for k in kept):
            kept.append(axis)
    return tuple(axis for axis in many if axis in kept and axis not in (RATE, SEED))


def _labels(axis: str, column: pd.Series) -> list[str]:
    distinct = [_plain(value) for value in column.drop_duplicates()]
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        distinct.sort(key=lambda value: math.inf if value is None else value)
    return list(dict.fromkeys(value_label(axis, value) for value in distinct))


def _plain(value: Any) -> Any:
    return None if pd.isna(value) else value


def _objective(runs: pd.DataFrame) -> tuple[str, str]:
    for column, words in (("train_loss", "final train loss"), ("eval_loss", "final held-out loss")):
        if runs[column].notna().any():
            return column, words
    return "train_loss", "final train loss"
