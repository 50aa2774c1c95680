"""The largest curvature among directions in the norm of the step, on the probe (arXiv 2603.05002)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.diagnostics.algorithms.ascent import Ascent, Touch, ascend
from scaled_sgd.diagnostics.directions import direction_norms
from scaled_sgd.diagnostics.eigenpairs import sharpness_of
from scaled_sgd.diagnostics.generalized import FrobeniusBall, SpectralBall
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.operators.curvature import Curvature, curvature, roots_of
from scaled_sgd.diagnostics.operators.weights import over_length
from scaled_sgd.diagnostics.quantities.searches import Searches, SearchSettings
from scaled_sgd.diagnostics.quantities.state import Searching
from scaled_sgd.diagnostics.quantities.subspace import flat_rows

_COLUMNS = ("generalized_sharpness", "generalized_sharpness_bound", "generalized_edge_ratio")


class GeneralizedSharpness(Searching):
    """S = max dᵀHd over the step's ball: ‖d_k‖_F ≤ ‖U_k‖_F of scalar rules, ‖d_k‖_2 ≤ ω_k/l of polar ones.

    The maximisation is not concave: ``generalized_sharpness`` is the value at a stationary point, a lower
    bound of S, the better of ascents from the gradient and from the top eigenvector. For scalar rules
    ``generalized_sharpness_bound`` is an upper bound as far as Lanczos finds the largest eigenvalue, so that
    S is known where both agree; for polar ones there is none here.
    The edge ratio is ηc S/(2‖∇L‖_*), at the lower bound, with the dual norm ‖∇L‖_* = max ⟨d, ∇L⟩ on the ball:
    below 1 a quadratic falls along the steepest d.
    """

    def __init__(self, config: SearchSettings) -> None:
        self._tolerance, self._searches = config.tolerance, Searches(config, k=1)

    def measure(self, context: Context) -> dict[str, Any]:
        """``generalized_sharpness`` and its related columns."""
        taken, probe = context.taken, context.probe
        scalar = taken.direction.is_scalar
        if not taken.known or not (scalar or taken.polar):
            context.say("generalized_sharpness: null, for the step is of no known norm")
            return dict.fromkeys(_COLUMNS)
        operator, pairs = self._searches.hessian(context)
        top, bound = pairs.vectors[0], None
        if scalar:
            radii = direction_norms(context.minibatch, taken.direction).cpu()
            ball = FrobeniusBall(operator.vectors, radii)
            found = self._best(operator, ball.touch, top)
            slope = float(radii @ probe.statistics.gradient_squares.double().sqrt().cpu())
            bound = self._bound(operator, roots_of(ball.scales(found.product)), found.product)
        else:
            operator, top = curvature(probe, space="dense"), flat_rows(pairs.expand())
            partition = probe.partition
            touch = SpectralBall(operator.vectors, (partition.omega / partition.depth).tolist()).touch
            found = self._best(operator, touch, top)
            slope = touch(context.gradient, context.gradient)[1]
        if not taken.is_along_direction:
            context.say("generalized_edge_ratio: null with momentum or weight decay")
        defined = taken.is_along_direction and slope > 0
        return {
            "generalized_sharpness": found.value,
            "generalized_sharpness_bound": bound,
            "generalized_edge_ratio": taken.rate * found.value / (2 * slope) if defined else None,
        }

    def _bound(self, operator: Curvature, roots: Sequence[float], product: Tensor) -> float:
        """λ_max(Ξ^{1/2} H Ξ^{1/2}), searched from Ξ^{1/2} H d, its eigenvector where S is known, and others.

        Others weigh as much, for d may belong to a smaller eigenvalue.
        """
        vectors, scaled = operator.vectors, replace(operator, roots=roots)
        y = torch.cat([part * root for part, root in zip(vectors.split(product), roots, strict=True)])
        both = torch.stack([y, scaled.start(0)])
        squares = torch.stack([torch.dot(v, vectors.dual(v)) for v in both])
        start = over_length(both, vectors.sum(squares).sqrt()[:, None])
        pairs = sharpness_of(scaled, tolerance=self._tolerance, warm_start=start)
        return float(pairs.values[0])

    def _best(self, operator: Curvature, touch: Touch, top: Tensor) -> Ascent:
        """The better ascent of those from about the gradient and from the top eigenvector."""
        starts = (operator.start(0), top)
        found = [ascend(operator, touch, start, tolerance=self._tolerance) for start in starts]
        return max(found, key=lambda ascent: ascent.value)
