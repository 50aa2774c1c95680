"""Edges of stability for figures against step: at each step, and as a formula of the runs' keys."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from scaled_sgd.study.figures.reading.view import View
from scaled_sgd.study.figures.reading.words import listing
from scaled_sgd.study.tables.edges import NEEDED, edge_of, why_no_edge


def steps_with_edges(view: View, runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Rows with any of ``columns``, and what :func:`edge_of` needs, as far as measured."""
    asked = dict.fromkeys((*columns, *NEEDED))
    steps = view.steps(runs, [name for name in asked if name in view.metrics])
    return steps.dropna(subset=list(columns), how="all")


def median_edge(steps: pd.DataFrame, column: str) -> pd.Series:
    """The median over seeds of the edge of a column, by step, where it has one."""
    return steps.assign(at=edge_of(steps, column)).groupby("step")["at"].median().dropna()


def no_edge_notes(panels: Iterable[tuple[str, pd.DataFrame]]) -> list[str]:
    """A sentence for each reason for which panels, by title and rows, have no edge of the sharpness."""
    reasons: dict[str, list[str]] = {}
    for name, steps in panels:
        found = reasons.setdefault(why_no_edge(steps), [])
        found += [name] if name not in found else []
    return [
        f"No edge is drawn{f' for {listing(names)}' if all(names) else ''}: {why}."
        for why, names in reasons.items()
        if why
    ]


def edge_formula(view: View, runs: pd.DataFrame) -> str:
    """The edge of the preconditioned sharpness of these runs: 2/η, with momentum, decay and clipping.

    c is the factor of clipping or normalising.
    """
    plain = view.plain[view.plain["id"].isin(runs["id"])]
    c = "c" if _has(plain, "clip_norm") or _has(plain, "normalize") else ""
    top = "2(1 + μ)" if _has(plain, "momentum") else "2"
    decay = f" − λ_w{'/c' if c else ''}" if _has(plain, "weight_decay") else ""
    return f"{top}/{'(ηc)' if c else 'η'}{decay}"


def _has(runs: pd.DataFrame, key: str) -> bool:
    """Whether some of these runs have a value of ``optim.<key>`` that is not 0."""
    columns = [runs[name] for name in (f"optim.{key}", f"config.optim.{key}") if name in runs]
    return any(_positive(value) for column in columns for value in column)


def _positive(value: Any) -> bool:
    return not (value is None or pd.isna(value) or isinstance(value, str)) and bool(value > 0)
