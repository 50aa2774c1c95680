"""Curvature along the gradients of fresh minibatches (arXiv 2412.20553)."""

from typing import Any, Protocol

import torch

from scaled_sgd.diagnostics.directions import update_rows
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.quantities.state import Stateless
from scaled_sgd.diagnostics.taylor import taylor_of
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch


class BatchSettings(Protocol):
    """Keys of the ``diagnostics.`` section."""

    minibatches: int


class BatchSharpness(Stateless):
    """E_B[gᵀ H_B g/‖g‖²] over minibatches B of a step's size, g and H_B of the same B; with its error.

    It is 2c2/|c1| along −g, so that no Hessian product is needed.
    """

    def __init__(self, config: BatchSettings) -> None:
        self._count = config.minibatches

    def measure(self, context: Context) -> dict[str, Any]:
        """``batch_sharpness`` and ``batch_sharpness_error``."""
        found = []
        for number in range(self._count):
            batch = context.draw(number)
            found.append(taylor_of(batch, gradient_direction(batch), order=2).directional_sharpness)
        values = torch.stack(found).double()
        if not bool(values.isfinite().all()):
            context.say("batch_sharpness: null where a minibatch has no gradient")
            return {"batch_sharpness": None, "batch_sharpness_error": None}
        error = float(values.std()) / self._count**0.5 if self._count > 1 else None
        return {"batch_sharpness": float(values.mean()), "batch_sharpness_error": error}


class GradientNoise(Stateless):
    """The gradient–noise interaction E_B[gᵀ H g]/‖∇L‖², g of minibatches B, H and ∇L of all samples.

    Needs a probe of all training samples.
    """

    def __init__(self, config: BatchSettings) -> None:
        self._count = config.minibatches

    def measure(self, context: Context) -> dict[str, Any]:
        """``gradient_noise_interaction``."""
        if not context.probe_is_all:
            context.say(
                "gradient_noise_interaction: null, for the probe is not all of the training samples; "
                "diagnostics.samples all makes it so"
            )
            return {"gradient_noise_interaction": None}
        probe = context.probe
        curvatures = []
        for number in range(self._count):
            batch = context.draw(number)
            rows = update_rows(batch, gradient_direction(batch))
            if probe.chunked:
                held = {k: rows(k) for k in range(1, probe.partition.depth + 1)}
                rows = held.__getitem__
            c2 = taylor_of(probe, rows, order=2).c2
            assert c2 is not None
            curvatures.append(2 * c2.double())
        square = float(probe.statistics.gradient_squares.sum())
        mean = float(torch.stack(curvatures).mean())
        return {"gradient_noise_interaction": mean / square if square else None}


def gradient_direction(batch: Minibatch) -> Direction:
    """K = 1: the direction of plain SGD."""
    partition = batch.partition
    return Direction(torch.ones(partition.depth, dtype=partition.dtype, device=partition.device))
