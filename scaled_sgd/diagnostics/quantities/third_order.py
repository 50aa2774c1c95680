"""The gradient of the top eigenvalue of the Hessian on the probe: what sharpens, what stabilises."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.operators.third_derivative import eigenvalue_gradient
from scaled_sgd.diagnostics.quantities.searches import Searches, SearchSettings
from scaled_sgd.diagnostics.quantities.subspace import flat_rows, step_rows
from scaled_sgd.diagnostics.sharpening import slope_columns, slope_products

_COLUMNS = (
    "progressive_sharpening",
    "self_stabilization",
    "progressive_sharpening_across",
    "self_stabilization_across",
    "swing",
    "sharpness_change_of_step",
    "sharpness_change",
    "predicted_sharpness_change",
)


class ThirdOrder:
    """α = −⟨∇L, ∇λ⟩ and β = ‖∇λ‖² of the top eigenvalue λ of H, also with ∇λ orthogonal to its eigenvector.

    Changes of λ: by the coming step in first order, and since the last measurement, measured and as
    ½⟨∇λ' + ∇λ, θ − θ'⟩, whose error is of third order in θ − θ' while λ stays simple. Holds the last
    weights and ∇λ', two vectors of the size of this process's rows.
    """

    def __init__(self, config: SearchSettings) -> None:
        self._searches = Searches(config, k=1)
        self._last: dict[str, Tensor] = {}

    def measure(self, context: Context) -> dict[str, Any]:
        """``progressive_sharpening`` and its related columns."""
        probe, partition = context.probe, context.probe.partition
        if not partition.activation.curved:
            context.say(
                "progressive_sharpening, self_stabilization: with a piecewise linear activation they are "
                "those of the pieces, with frozen signs; λ also changes where signs flip"
            )
        _, pairs = self._searches.hessian(context)
        value = float(pairs.values[0])
        if not abs(value) > 0:
            self._last = {}
            return dict.fromkeys(_COLUMNS)
        rows = pairs.expand()
        u, slope = flat_rows(rows), flat_rows(eigenvalue_gradient(probe, rows))
        weights = flat_rows([partition.local(k) for k in range(1, partition.depth + 1)])
        gradient = context.gradient
        products = [slope_products(gradient, slope, u)]
        if context.taken.known:
            products.append(torch.dot(step_rows(context), slope).double()[None])
        if self._last:
            change = torch.dot(weights - self._last["weights"], slope + self._last["slope"])
            products.append(change.double()[None])
        dots = partition.sum(torch.cat(products)).tolist()
        row = slope_columns(value, dots[:4]) | {
            "sharpness_change_of_step": context.taken.rate * dots[4] if context.taken.known else None,
            "sharpness_change": value - float(self._last["value"]) if self._last else None,
            "predicted_sharpness_change": dots[-1] / 2 if self._last else None,
        }
        self._last = {
            "weights": weights,
            "slope": slope,
            "value": torch.tensor(value, dtype=torch.float64),
        }
        return row

    def state_dict(self) -> dict[str, Tensor]:
        """The last weights, ∇λ and λ and the start vectors of later searches, all this process's share."""
        last = {f"start.last.{name}": t for name, t in self._last.items()}
        return last | self._searches.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        last = {n: t for n, t in state.items() if n.startswith("start.last.")}
        self._last = {n.removeprefix("start.last."): t for n, t in last.items()}
        self._searches.load_state_dict({n: t for n, t in state.items() if n not in last})
