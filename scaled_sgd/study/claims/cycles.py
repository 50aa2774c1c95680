"""The first cycle of a run at the edge of stability, as measured and as its first values predict it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scaled_sgd.diagnostics.cycle import cycle
from scaled_sgd.study.tables.edges import edge_of

COLUMNS = ("lr", "sharpness", "swing", "progressive_sharpening_across", "self_stabilization_across")


@dataclass(frozen=True)
class Cycle:
    """λ and |x| of each step from the one where λ passes 2/η to the one where it does so again, if it does.

    Attributes:
        first: step of the first.
        edge: 2/η.
        complete: whether λ passes 2/η again.
        sharpness: λ, without its oscillation of period 2.
        swing: |x|.
        predicted: λ and |x| of :func:`~scaled_sgd.diagnostics.cycle.cycle`, (≤ steps, 2).
    """

    first: int
    edge: float
    complete: bool
    sharpness: np.ndarray
    swing: np.ndarray
    predicted: np.ndarray


def first_cycle(rows: pd.DataFrame) -> Cycle | None:
    """The first cycle of a run of plain SGD measured at every step at a constant rate.

    None where there is none, where the edge of its steps is not 2/η, or where α is not positive there:
    nothing sharpens that could be stabilised.
    """
    if not set(COLUMNS) <= set(rows):
        return None
    rows = rows.dropna(subset=list(COLUMNS)).sort_values("step")
    if len(rows) < 3 or (rows["step"].diff().dropna() != 1).any() or rows["lr"].nunique() > 1:
        return None
    if "edge" in rows and not np.allclose(edge_of(rows, "sharpness"), 2 / rows["lr"]):
        return None
    lr, raw = float(rows["lr"].iloc[0]), rows["sharpness"].to_numpy()
    smooth = (raw[:-2] + 2 * raw[1:-1] + raw[2:]) / 4
    above = smooth >= 2 / lr
    starts = 1 + np.flatnonzero(above[1:] & ~above[:-1])
    if not len(starts):
        return None
    complete = len(starts) > 1
    begin, end = int(starts[0]), int(starts[1]) if complete else len(smooth)
    now = rows.iloc[begin + 1]
    if now["progressive_sharpening_across"] <= 0:
        return None
    path = np.array(
        cycle(
            lr,
            float(now["progressive_sharpening_across"]),
            float(now["self_stabilization_across"]),
            x=float(now["swing"]),
            y=float(smooth[begin]) - 2 / lr,
            steps=end - begin - 1,
        )
    )
    predicted = np.stack([2 / lr + path[:, 1], np.abs(path[:, 0])], axis=1)
    swing = rows["swing"].to_numpy()[begin + 1 : end + 1]
    return Cycle(int(now["step"]), 2 / lr, complete, smooth[begin:end], swing, predicted)


def cycle_height(_runs: pd.DataFrame, metrics: pd.DataFrame, _column: str) -> float:
    """Median over runs: how far λ rises above 2/η in the first cycle, predicted over measured."""
    return _median(
        metrics, lambda one: (one.predicted[:, 0].max() - one.edge) / (one.sharpness.max() - one.edge)
    )


def cycle_rise(_runs: pd.DataFrame, metrics: pd.DataFrame, _column: str) -> float:
    """Median over runs: steps from 2/η to the largest λ of the first cycle, predicted over measured."""
    return _median(
        metrics, lambda one: int(one.predicted[:, 0].argmax()) / max(1, int(one.sharpness.argmax()))
    )


def _median(metrics: pd.DataFrame, of: Callable[[Cycle], float]) -> float:
    found = [first_cycle(rows) for _, rows in metrics.groupby("id")]
    values = [float(of(one)) for one in found if one is not None]
    return float(np.median(values)) if values else float("nan")
