"""Spectra of the Hessians of fresh minibatches (arXiv 2006.09092)."""

from math import isfinite
from statistics import fmean, stdev
from typing import Any, Protocol

from scaled_sgd.diagnostics.algorithms.quadrature import Quadrature, quadrature
from scaled_sgd.diagnostics.eigenpairs import sharpness_of
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.operators.curvature import Curvature, curvature
from scaled_sgd.diagnostics.operators.weights import RowVectors
from scaled_sgd.diagnostics.quantities.batches import BatchSettings
from scaled_sgd.diagnostics.quantities.searches import Searches, SearchSettings
from scaled_sgd.diagnostics.quantities.state import Searching
from scaled_sgd.steps.minibatch import Minibatch

STEPS = 24
"""Lanczos steps of a minibatch's density."""

_COLUMNS = ("batch_eigenvalue", "batch_eigenvalue_error", "batch_eigenvalue_excess", "batch_spectrum")


class SpectrumSettings(BatchSettings, SearchSettings, Protocol):
    """Keys of the ``diagnostics.`` section."""


class BatchSpectrum(Searching):
    """E_B[λ_max(H_B)] and the mean density of eigenvalues of H_B, over minibatches B of a step's size."""

    def __init__(self, config: SpectrumSettings) -> None:
        self._count, self._tolerance = config.minibatches, config.tolerance
        self._searches = Searches(config, k=1)

    def measure(self, context: Context) -> dict[str, Any]:
        """The columns of ``batch_spectrum``."""
        tops: list[float] = []
        nodes: list[float] = []
        weights: list[float] = []
        for number in range(self._count):
            batch = context.draw(number)
            vectors = RowVectors(batch, space="dense")
            operator = Curvature(vectors, "hessian", [1.0] * batch.partition.depth)
            density = quadrature(operator, vectors.gaussian(number), STEPS)
            tops.append(self._top(batch, density))
            if not isfinite(tops[-1]):
                context.say("batch_spectrum: null where the network is not finite")
                return dict.fromkeys(_COLUMNS)
            nodes += density.nodes.tolist()
            weights += (density.weights / self._count).tolist()
        error = stdev(tops) / self._count**0.5 if self._count > 1 else None
        excess = self._excess(context, fmean(tops))
        spectrum = {"nodes": nodes, "weights": weights}
        return dict(zip(_COLUMNS, (fmean(tops), error, excess, spectrum), strict=True))

    def _top(self, batch: Minibatch, density: Quadrature) -> float:
        """λ_max(H_B): the largest node, where Lanczos has found it by then, as it does as a rule."""
        top, residual = float(density.nodes[-1]), float(density.residuals[-1])
        if residual > self._tolerance * abs(top):
            top = float(sharpness_of(curvature(batch), tolerance=self._tolerance).values[0])
        return top

    def _excess(self, context: Context, mean: float) -> float | None:
        if not context.probe_is_all:
            context.say(
                "batch_eigenvalue_excess: null, for the probe is not all of the training samples; "
                "diagnostics.samples all makes it so"
            )
            return None
        return mean - float(self._searches.hessian(context)[1].values[0])
