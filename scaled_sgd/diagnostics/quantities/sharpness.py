"""Largest eigenvalues of the Hessian on the probe, relative to the edge of stability (theory §3b, §5)."""

from dataclasses import replace
from typing import Any

from scaled_sgd.diagnostics.eigenpairs import Eigenpairs
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.operators.curvature import roots_of
from scaled_sgd.diagnostics.quantities.searches import Searches, SearchSettings
from scaled_sgd.diagnostics.quantities.state import Searching


class Sharpness(Searching):
    """Top eigenvalues of H and, for steps by scalar rules, of Ξ^{1/2} H Ξ^{1/2} with their edge ratio."""

    def __init__(self, config: SearchSettings) -> None:
        self._k, self._searches = config.k, Searches(config)

    def measure(self, context: Context) -> dict[str, Any]:
        """``sharpness`` and its related columns."""
        taken = context.taken
        plain = context.found["hessian"] = self._searches.top("plain", context.hessian)
        scaled = self._scaled(context, plain)
        has_edge = scaled is not None and taken.known
        if not taken.known:
            context.say("edge_ratio, edge: null, for the optimizer does not step by −ηv")
        found = [plain] if scaled is None else [plain, scaled]
        row: dict[str, Any] = {
            "sharpness": float(plain.values[0]),
            "preconditioned_sharpness": None if scaled is None else float(scaled.values[0]),
            "edge_ratio": taken.edge_ratio(float(scaled.values[0])) if scaled and has_edge else None,
            "edge": taken.edge if has_edge else None,
            "sharpness_residuals": [float(pairs.residuals[0]) for pairs in found],
        }
        if self._k > 1:
            row["eigenvalues"] = plain.values.tolist()
            row["preconditioned_eigenvalues"] = None if scaled is None else scaled.values.tolist()
        return row

    def _scaled(self, context: Context, plain: Eigenpairs) -> Eigenpairs | None:
        """Eigenpairs of Ξ^{1/2} H Ξ^{1/2}; None if the direction is not a ξ, ``plain`` if all ξ are 1."""
        direction = context.taken.direction
        if not direction.is_scalar:
            context.say(
                "preconditioned_sharpness, edge_ratio: null, for the step is not a number times each layer's "
                "gradient; directional_edge_ratio is defined for it"
            )
            return None
        xi = direction.numbers.to(context.probe.partition.dtype)
        if bool((xi == 1).all()):
            self._searches.starts["scaled"] = plain.vectors
            return plain
        return self._searches.top("scaled", replace(context.hessian, roots=roots_of(xi)))
