"""Measures: numbers over the runs of a study, from its tables.

Each takes the rows of the table of runs and of that of metrics (``docs/report.md``) of the runs that it is
of, ordered by step within a run, and a column's name. It returns NaN where no run has such a number.
"""

import math

import numpy as np
import pandas as pd

from scaled_sgd.study.claims.memory import step_bytes

_RATE, _IN_EDGES = "config.optim.lr", "config.optim.lr_in_edges"


def first(_runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """Median over runs of the first value."""
    return _median(_known(metrics, column).groupby("id")[column].first())


def last(_runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """Median over runs of the last value."""
    return _median(_known(metrics, column).groupby("id")[column].last())


def largest(_runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """Median over runs of the largest value."""
    return _median(_known(metrics, column).groupby("id")[column].max())


def rise(_runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """Median over runs of largest over first value."""
    by_run = _known(metrics, column).groupby("id")[column]
    return _median(by_run.max() / by_run.first())


def fall(_runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """Median over runs of last over largest value."""
    by_run = _known(metrics, column).groupby("id")[column]
    return _median(by_run.last() / by_run.max())


def last_over_first(_runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """Median over runs."""
    by_run = _known(metrics, column).groupby("id")[column]
    return _median(by_run.last() / by_run.first())


def late_median(_runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """Median over all values in the last half of each run's steps."""
    return _median(_late(metrics, column)[column])


def late_edge(_runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """The same of η·column/2, with η of the step."""
    rows = _late(metrics, column)
    return _median(rows["lr"] * rows[column] / 2)


def step_above_half(_runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """Median over runs of the first step at which the column has passed the middle of first and largest."""
    known = _known(metrics, column)
    by_run = known.groupby("id")[column]
    middle = (by_run.transform("first") + by_run.transform("max")) / 2
    return _median(known[known[column] >= middle].groupby("id")["step"].first())


def progress_at_half(runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """Median over runs of the column at :func:`step_above_half` of the accuracy, over its last value."""
    shares = []
    for _, rows in metrics.groupby("id"):
        step, known = step_above_half(runs, rows, "accuracy"), _known(rows, column)
        before = known[known["step"] <= step]
        if len(before):
            shares.append(before[column].iloc[-1] / known[column].iloc[-1])
    return _median(pd.Series(shares, dtype="float64"))


def time_power(_runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """Median over runs of the slope of a least-squares fit of log column against log step.

    The first twentieth of the steps is left out.
    """
    slopes = []
    for _, rows in metrics.groupby("id"):
        known = _known(rows, column)
        known = known[(20 * known["step"] >= known["step"].max()) & (known["step"] > 0) & (known[column] > 0)]
        if len(known) > 1:
            slopes.append(np.polyfit(np.log(known["step"]), np.log(known[column]), 1)[0])
    return _median(pd.Series(slopes, dtype="float64"))


def result(runs: pd.DataFrame, _metrics: pd.DataFrame, column: str) -> float:
    """Median of a column of the table of runs."""
    return _median(pd.to_numeric(runs[column])) if column in runs else math.nan


def held_out_gap(runs: pd.DataFrame, _metrics: pd.DataFrame, _column: str) -> float:
    """Median over runs."""
    return _median(pd.to_numeric(runs["eval_loss"]) / pd.to_numeric(runs["train_loss"]))


def final_loss(runs: pd.DataFrame, _metrics: pd.DataFrame, _column: str) -> float:
    """Median; a run that diverged counts as infinite."""
    return _median(_final(runs))


def loss_fall(runs: pd.DataFrame, _metrics: pd.DataFrame, _column: str) -> float:
    """Median over runs of the final training loss over the first minibatch's."""
    return _median(_final(runs) / pd.to_numeric(runs["initial_loss"]))


def loss_peak(runs: pd.DataFrame, _metrics: pd.DataFrame, _column: str) -> float:
    """Median over runs of the largest minibatch loss, logged or not, over the first; ∞ where diverged."""
    largest = pd.to_numeric(runs["max_loss"]).astype("float64").where(runs["status"] == "finished", math.inf)
    return _median(largest / pd.to_numeric(runs["initial_loss"]))


def rising_steps(_runs: pd.DataFrame, metrics: pd.DataFrame, _column: str) -> float:
    """Share over all runs; only losses of consecutive steps are compared."""
    known = _known(metrics, "loss")
    change = known.groupby("id")[["step", "loss"]].diff()
    change = change[change["step"] == 1]
    return float((change["loss"] > 0).mean()) if len(change) else math.nan


def best_rate(runs: pd.DataFrame, _metrics: pd.DataFrame, _column: str) -> float:
    """The rate with the lowest median final loss; the lower of equals."""
    losses = _losses(runs)
    return float(losses.idxmin()) if len(losses) else math.nan


def best_loss(runs: pd.DataFrame, _metrics: pd.DataFrame, _column: str) -> float:
    """The lowest median final loss over rates."""
    losses = _losses(runs)
    return float(losses.min()) if len(losses) else math.nan


def best_last(runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """:func:`last` of the runs at :func:`best_rate`."""
    best = runs[_rates(runs) == best_rate(runs, metrics, column)]
    return last(best, metrics[metrics["id"].isin(best["id"])], column)


def best_accuracy(runs: pd.DataFrame, _metrics: pd.DataFrame, _column: str) -> float:
    """The highest median accuracy over rates; a run that diverged has none right."""
    accuracy = _accuracy(runs)
    return float(accuracy.max()) if len(accuracy) else math.nan


def planned_memory(runs: pd.DataFrame, _metrics: pd.DataFrame, _column: str) -> float:
    """Median of what the planner predicts: weights, optimizer and signals at their peak."""
    return _median(runs.apply(step_bytes, axis="columns"))


def largest_stable_rate(runs: pd.DataFrame, _metrics: pd.DataFrame, _column: str) -> float:
    """The largest rate that, like all lower ones, is stable for every run."""
    stable = runs["stable"].fillna(False).astype(bool).groupby(_rates(runs)).all()
    unbroken = stable.sort_index().cummin()
    return float(unbroken[unbroken].index.max()) if unbroken.any() else math.nan


def largest_trained_rate(runs: pd.DataFrame, _metrics: pd.DataFrame, _column: str) -> float:
    """The largest rate that, like all from the best accuracy on, has at least half of that accuracy."""
    accuracy = _accuracy(runs)
    if accuracy.empty:
        return math.nan
    beyond = accuracy[accuracy.idxmax() :]
    unbroken = (beyond >= accuracy.max() / 2).cummin()
    return float(unbroken[unbroken].index.max())


def trained_rate_in_curvatures(runs: pd.DataFrame, metrics: pd.DataFrame, column: str) -> float:
    """:func:`largest_trained_rate` times the first value of a curvature; NaN of rates in units of 2/λ₀."""
    if _given_in_edges(runs).any():
        return math.nan
    return largest_trained_rate(runs, metrics, column) * first(runs, metrics, column)


def _known(metrics: pd.DataFrame, column: str) -> pd.DataFrame:
    return metrics.dropna(subset=[column]) if column in metrics else metrics.iloc[:0].assign(**{column: 0.0})


def _late(metrics: pd.DataFrame, column: str) -> pd.DataFrame:
    end = metrics.groupby("id")["step"].transform("max")
    return _known(metrics[2 * metrics["step"] >= end], column)


def _final(runs: pd.DataFrame) -> pd.Series:
    loss = pd.to_numeric(runs["train_loss"]).astype("float64")
    return loss.where((runs["status"] == "finished") & loss.notna(), math.inf)


def _given_in_edges(runs: pd.DataFrame) -> pd.Series:
    edges = runs[_IN_EDGES] if _IN_EDGES in runs else pd.Series(math.nan, runs.index)
    return edges.notna()


def _rates(runs: pd.DataFrame) -> pd.Series:
    """Learning rates, or rates in units of 2/λ₀ of each run; NaN where runs have both."""
    in_edges = _given_in_edges(runs)
    rates = pd.to_numeric(runs[_IN_EDGES if in_edges.all() else _RATE])
    return rates if in_edges.all() or not in_edges.any() else rates.astype("float64") * math.nan


def _accuracy(runs: pd.DataFrame) -> pd.Series:
    """Median accuracy of each rate, 0 where runs diverged; empty where no run has one."""
    found = pd.to_numeric(runs["accuracy"]).where(runs["status"] == "finished")
    medians = found.fillna(0.0).groupby(_rates(runs)).median().sort_index()
    return medians if found.notna().any() else medians.iloc[:0]


def _losses(runs: pd.DataFrame) -> pd.Series:
    losses = _final(runs).groupby(_rates(runs)).median().sort_index()
    return losses[losses < math.inf]


def _median(values: pd.Series) -> float:
    found = values.dropna().to_numpy(dtype="float64")
    return float(np.median(found)) if len(found) else math.nan
