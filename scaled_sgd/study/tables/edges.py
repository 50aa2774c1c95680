"""Edges of stability of measured curvatures (theory §3b): the value of a column whose edge ratio is 1."""

import math

import numpy as np
import pandas as pd

_KNOWN = {
    "preconditioned_sharpness": ("edge", "edge_ratio"),
    "adam_sharpness": ("adam_edge", "adam_edge_ratio"),
    "generalized_sharpness": (None, "generalized_edge_ratio"),
}
"""Curvatures with their edge and their edge ratio, as rows of metrics name them."""

NEEDED = ("sharpness", *_KNOWN, *(name for pair in _KNOWN.values() for name in pair if name))
"""The columns of which edges are made, beside ``lr``."""


def edge_of(steps: pd.DataFrame, column: str) -> pd.Series:
    """The edge of ``column`` in each row of metrics; NaN where it has none.

    That of the sharpness is known where all ξ are 1, so that it is the preconditioned sharpness; in rows
    without ``edge``, of earlier versions, it is right without weight decay.
    """
    if column == "sharpness":
        same = _numbers(steps, "sharpness") == _numbers(steps, "preconditioned_sharpness")
        return edge_of(steps, "preconditioned_sharpness").where(same)
    edge, ratio = _KNOWN[column]
    found = _numbers(steps, column) / _numbers(steps, ratio)
    found = found if edge is None else _numbers(steps, edge).fillna(found)
    return found.where(np.isfinite(found) & (found > 0))


def why_no_edge(steps: pd.DataFrame) -> str:
    """Why the sharpness has no edge in any of these rows; empty where it has one."""
    if edge_of(steps, "sharpness").notna().any():
        return ""
    if _numbers(steps, "preconditioned_sharpness").isna().all():
        return "steps are not a number times each layer's gradient"
    if edge_of(steps, "preconditioned_sharpness").notna().any():
        return "scaled gradients have the edge of the preconditioned sharpness"
    return "the optimizer does not step by −ηv" if (steps["lr"] > 0).any() else "all rates are 0"


def _numbers(steps: pd.DataFrame, name: str) -> pd.Series:
    found = steps[name] if name in steps else pd.Series(math.nan, index=steps.index)
    return found.astype("float64")
