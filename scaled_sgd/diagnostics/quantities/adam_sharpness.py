"""Sharpness as AdamW's steps meet it, on the probe, relative to its edge (arXiv 2207.14484)."""

from typing import Any

import torch
from torch import Tensor

from scaled_sgd.diagnostics.directions import fit_direction, update_rows
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.operators.curvature import curvature
from scaled_sgd.diagnostics.operators.diagonal import Diagonal
from scaled_sgd.diagnostics.quantities.searches import Searches, SearchSettings
from scaled_sgd.diagnostics.quantities.state import Searching
from scaled_sgd.diagnostics.taken import AdamState


class AdamSharpness(Searching):
    """The largest eigenvalue of P^{−1/2} cΞH P^{−1/2}, P the denominators of AdamW's coming step.

    P includes the coming minibatch's squared gradient, so that it exists at the first step. The edge
    is that of full batches with P at rest. Vectors are as large as the weights.
    """

    def __init__(self, config: SearchSettings) -> None:
        self._searches = Searches(config, k=1)

    def measure(self, context: Context) -> dict[str, Any]:
        """``adam_sharpness``, ``adam_edge`` and ``adam_edge_ratio``."""
        taken, adam = context.taken, context.taken.adam
        if adam is None or not taken.direction.is_scalar:
            context.say(
                "adam_sharpness: null, for the steps are not those of optim.optimizer adamw, without "
                "amsgrad, on a number times each layer's gradient"
            )
            return dict.fromkeys(("adam_sharpness", "adam_edge", "adam_edge_ratio"))
        operator = Diagonal(curvature(context.probe, space="dense"), _roots(context, adam))
        value = float(self._searches.top("adam", operator).values[0])
        edge = adam.edge(taken.lr, taken.weight_decay)
        return {
            "adam_sharpness": value,
            "adam_edge": edge,
            "adam_edge_ratio": None if edge is None else value / edge,
        }


@torch.no_grad()
def _roots(context: Context, adam: AdamState) -> Tensor:
    """√(cξ_k/P) of this process's rows of all layers, flat."""
    taken, batch = context.taken, context.minibatch
    direction = fit_direction(taken.direction, batch)
    updates = update_rows(batch, direction)
    found = []
    for k in range(1, batch.partition.depth + 1):
        gradient = updates(k) * (taken.factor / batch.partition.multiplier(k))
        scale = direction.numbers[k - 1] * taken.factor
        found.append((scale / adam.denominator(k, gradient)).sqrt_().reshape(-1))
    return torch.cat(found)
