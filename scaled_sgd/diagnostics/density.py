"""The spectral density of the minibatch Hessian by stochastic Lanczos quadrature."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.algorithms.quadrature import quadrature
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.operators.autograd import GenericCurvature
from scaled_sgd.diagnostics.operators.curvature import Curvature, roots_of
from scaled_sgd.diagnostics.operators.generic import GenericVectors
from scaled_sgd.diagnostics.operators.r_operator import Part, check_part
from scaled_sgd.diagnostics.operators.weights import RowVectors
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.scales import resolve_scales


@dataclass(frozen=True)
class SpectralDensity:
    """A distribution of eigenvalues: each probe's quadrature nodes and weights, float64 on the CPU.

    Attributes:
        nodes: Ritz values, shape (probes, steps); nan where a probe has exhausted its Krylov space.
        weights: fractions of the spectrum, summing to 1 for each probe, shape (probes, steps).
    """

    nodes: Tensor
    weights: Tensor

    def moment(self, power: int) -> Tensor:
        """The mean over all eigenvalues of λ^power."""
        return (self.weights * self.nodes.nan_to_num() ** power).sum(1).mean()

    def density(self, grid: Tensor, width: float) -> Tensor:
        """The density on ``grid``, with every node broadened to a Gaussian of standard deviation ``width``.

        Raises:
            UserError: the width is not positive.
        """
        if not width > 0:
            raise UserError(f"width: {width!r} is not usable; allowed: positive numbers")
        away = (grid.to(torch.float64)[:, None, None] - self.nodes.nan_to_num()) / width
        bumps = torch.exp(-0.5 * away.square()) / (width * math.sqrt(2 * math.pi))
        return (bumps * self.weights).sum(2).mean(1)


@without_autocast
def spectral_density(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: str,
    scales: str | Tensor | None = None,
    part: Part = "hessian",
    steps: int = 30,
    probes: int = 4,
    chunk_size: int | None = None,
    seed: int = 0,
) -> SpectralDensity:
    """The density of all eigenvalues of H, or of Ξ^{1/2} H Ξ^{1/2}, on the global minibatch.

    ``part`` names H, its Gauss–Newton part G, or H − G, as in :func:`~scaled_sgd.diagnostics.sharpness`.

    Each probe runs ``steps`` steps of Lanczos with full reorthogonalisation from Gaussian weights and holds
    steps + 2 vectors of the size of this process's share of the weights.

    Raises:
        UserError: invalid arguments.
    """
    for name, value in (("steps", steps), ("probes", probes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{name}: {value!r} is not usable; allowed: integers from 1")
    operator: Curvature | GenericCurvature
    vectors: RowVectors | GenericVectors
    if is_homogeneous(model):
        batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
        check_part(part)
        vectors = RowVectors(batch, space="dense", both=part != "gauss_newton")
        operator = Curvature(vectors, part, roots_of(resolve_scales(scales, batch)))
    else:
        operator = GenericCurvature(model, x, y, loss=loss, scales=scales, part=part)
        vectors = operator.vectors
    nodes = torch.full((probes, steps), torch.nan, dtype=torch.float64)
    weights = torch.zeros_like(nodes)
    for probe in range(probes):
        found = quadrature(operator, vectors.gaussian(seed * probes + probe), steps)
        count = len(found.nodes)
        nodes[probe, :count], weights[probe, :count] = found.nodes, found.weights
    return SpectralDensity(nodes, weights)
