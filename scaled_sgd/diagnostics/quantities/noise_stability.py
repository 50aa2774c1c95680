"""Whether the noise of minibatches alone lets SGD leave a point (Wu, Ma, E, NeurIPS 2018)."""

from typing import Any, Protocol

from torch import Tensor

from scaled_sgd.diagnostics.eigenpairs import Eigenpairs
from scaled_sgd.diagnostics.noise import growth_of, outputs_are_stable
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.operators.curvature import curvature
from scaled_sgd.diagnostics.operators.mean_square import MeanSquareGrowth
from scaled_sgd.diagnostics.operators.r_operator import Part
from scaled_sgd.diagnostics.operators.weights import RowVectors
from scaled_sgd.diagnostics.quantities.batches import BatchSettings
from scaled_sgd.diagnostics.quantities.searches import Searches, SearchSettings
from scaled_sgd.diagnostics.quantities.state import Searching

_COLUMNS = ("noise_stability", "noise_stability_gauss_newton")


class NoiseSettings(BatchSettings, SearchSettings, Protocol):
    """Keys of the ``diagnostics.`` section."""


class NoiseStability(Searching):
    """λ_max(E_B[(1 − ηλ_w − ηcΞ^{1/2} C_B Ξ^{1/2})²]) over fresh minibatches B, C = H and C = G.

    Ξ and c are those of the coming step.
    """

    def __init__(self, config: NoiseSettings) -> None:
        self._count, self._searches = config.minibatches, Searches(config, k=1)
        self._tolerance = config.tolerance**0.5

    def measure(self, context: Context) -> dict[str, Any]:
        """``noise_stability`` and ``noise_stability_gauss_newton``."""
        taken = context.taken
        if not taken.known or taken.momentum or not taken.direction.is_scalar:
            context.say(
                "noise_stability: null, for the step is not −η times a number times each layer's gradient; "
                "allowed: sgd without momentum"
            )
            return dict.fromkeys(_COLUMNS)
        batches = [context.draw(number) for number in range(self._count)]
        xi = taken.direction.numbers.to(context.minibatch.partition.dtype)
        rate, kept = taken.lr * taken.factor, 1 - taken.lr * taken.weight_decay

        def growth(part: Part, start: Tensor | None) -> Eigenpairs:
            inner = [curvature(batch, xi, part=part, space="dense") for batch in batches]
            operator = MeanSquareGrowth(inner, rate, kept)
            return growth_of(operator, tolerance=self._tolerance, warm_start=start)

        vectors = RowVectors(batches[0], space="dense")
        whole = growth("hessian", self._searches.start("hessian", vectors))
        self._searches.starts["hessian"] = whole.vectors
        if outputs_are_stable(batches, xi, rate=rate, kept=kept):
            outputs = kept**2
        else:
            outputs = float(growth("gauss_newton", whole.vectors).values[0])
        return dict(zip(_COLUMNS, (float(whole.values[0]), outputs), strict=True))
