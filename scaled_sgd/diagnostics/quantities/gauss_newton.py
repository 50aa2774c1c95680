"""The two parts of the Hessian on the probe: moving outputs, moving features (theory §4, §5)."""

from dataclasses import replace
from typing import Any

import torch

from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.operators.curvature import curvature
from scaled_sgd.diagnostics.quantities.searches import Searches, SearchSettings
from scaled_sgd.diagnostics.quantities.state import Searching
from scaled_sgd.diagnostics.trace import gauss_newton_trace


class GaussNewton(Searching):
    """Top eigenvalues of G and of H − G; tr G, and the share of it that the top eigenvalues of G have."""

    def __init__(self, config: SearchSettings) -> None:
        self._k, self._searches = config.k, Searches(config)

    def measure(self, context: Context) -> dict[str, Any]:
        """``gauss_newton_sharpness`` and its related columns."""
        probe = context.probe
        outputs = self._searches.top("gauss_newton", curvature(probe, part="gauss_newton"))
        features = self._searches.top("feature", replace(context.hessian, part="feature"))
        trace = float(gauss_newton_trace(probe, torch.ones_like(probe.partition.alpha)).sum())
        row: dict[str, Any] = {
            "gauss_newton_sharpness": float(outputs.values[0]),
            "feature_sharpness": float(features.values[0]),
            "gauss_newton_trace": trace,
            "gauss_newton_share": float(outputs.values.sum()) / trace if trace else None,
        }
        if self._k > 1:
            row["gauss_newton_eigenvalues"] = outputs.values.tolist()
            row["feature_eigenvalues"] = features.values.tolist()
        return row
