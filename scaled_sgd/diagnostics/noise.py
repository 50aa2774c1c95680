"""Noise stability: how mean square distances from a point grow in a step of SGD (theory §9)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.numbers import check_number
from scaled_sgd.diagnostics.eigenpairs import Eigenpairs, default_basis, sharpness_of, warm_vector
from scaled_sgd.diagnostics.generic_line import check_unchunked
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.operators.autograd import GenericCurvature
from scaled_sgd.diagnostics.operators.curvature import curvature
from scaled_sgd.diagnostics.operators.mean_square import MeanSquareGrowth
from scaled_sgd.diagnostics.operators.r_operator import Part
from scaled_sgd.diagnostics.operators.space import WeightOperator
from scaled_sgd.diagnostics.operators.weights import over_length
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.scales import given_scales

TOLERANCE = 0.03
"""Of a residual, whose square is the error of an eigenvalue."""

BASIS = 32
"""Vectors that a search holds at most: an iteration takes many products, so that restarts do not pay."""


@without_autocast
def noise_stability(
    model: nn.Module,
    minibatches: Sequence[tuple[Tensor, Tensor]],
    *,
    loss: str,
    lr: float,
    weight_decay: float = 0.0,
    scales: Tensor | None = None,
    part: Part = "hessian",
    tolerance: float = TOLERANCE,
    max_iterations: int = 100,
    warm_start: Eigenpairs | Tensor | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """The largest eigenvalue of E_B[(1 − ηλ_w − ηΞ^{1/2} C_B Ξ^{1/2})²] over minibatches B, C_B = H_B or G_B.

    At most 1: SGD near a minimum is stable in the mean square. One iteration of Lanczos takes two products
    with each C_B. The minibatches' signals, or the recorded derivatives of other networks, are held at once.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded; other networks take the generic path, without
            chunks.
        minibatches: (x, y) of each, this process's samples and targets.
        loss: ``cross_entropy`` or ``mse``.
        lr: η.
        weight_decay: λ_w.
        scales: ξ of the step: None for 1, or one number per layer or parameter tensor.
        part: ``hessian``, ``gauss_newton`` or ``feature`` (H − G).
        tolerance: on the residual, over how much the eigenvalue is above κ² = (1 − ηλ_w)², or over κ²/3 if
            that is more; below κ² its square, over κ².
            The error of the eigenvalue is of the square of the residual.
        max_iterations: largest number of iterations.
        warm_start: an earlier result, to which a fresh start is added; weights and minibatches may differ.
        chunk_size: largest number of samples at a time.
        seed: seed of the start vector.

    Raises:
        UserError: invalid arguments.
    """
    check_number("lr", lr)
    check_number("weight_decay", weight_decay)
    if isinstance(scales, str):
        raise UserError(f"scales: {scales!r} is of one minibatch; allowed: None or a tensor")
    pairs = list(minibatches)
    if not pairs:
        raise UserError("minibatches: there are none; allowed: at least one (x, y)")
    inner: list[WeightOperator]
    if is_homogeneous(model):
        batches = [Minibatch(model, x, y, loss=loss, chunk_size=chunk_size) for x, y in pairs]
        partition = batches[0].partition
        xi = given_scales(scales, partition.depth, dtype=partition.dtype, device=partition.device)
        inner = [curvature(batch, xi, part=part, space="dense") for batch in batches]
    else:
        check_unchunked(chunk_size)
        inner = [GenericCurvature(model, x, y, loss=loss, scales=scales, part=part) for x, y in pairs]
    growth = MeanSquareGrowth(inner, lr, 1 - lr * weight_decay)
    return growth_of(
        growth, tolerance=tolerance, max_iterations=max_iterations, warm_start=warm_start, seed=seed
    )


def growth_of(
    growth: MeanSquareGrowth,
    *,
    tolerance: float = TOLERANCE,
    max_iterations: int = 100,
    warm_start: Eigenpairs | Tensor | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """The largest eigenvalue, with κ², and its vector; the arguments are those of :func:`noise_stability`."""
    check_number("tolerance", tolerance, positive=True)
    vectors, square = growth.vectors, growth.kept**2
    if warm_start is not None:
        # Others than the last vector may have grown, and be orthogonal to it.
        fresh = growth.start(seed)
        length = vectors.sum(torch.dot(fresh, fresh)).sqrt()
        warm_start = torch.stack([warm_vector(vectors, warm_start), over_length(fresh, length)])
    search = partial(
        sharpness_of,
        growth,
        tolerance=tolerance,
        basis=default_basis(vectors, 1, most=BASIS),
        max_iterations=max_iterations,
        seed=seed,
    )
    found = search(least=tolerance * square / 3, warm_start=warm_start)
    if float(found.values[0]) < 0:
        # Where nothing grows, what is sought is hidden among many eigenvalues near κ².
        further = search(least=tolerance**2 * square, warm_start=found)
        found = replace(further, iterations=found.iterations + further.iterations)
    values = found.values + square
    return replace(found, values=values, residuals=found.residuals * found.values.abs() / values.abs())


def outputs_are_stable(batches: Sequence[Minibatch], xi: Tensor, *, rate: float, kept: float) -> bool:
    """Whether λ_max(E_B[(κ − ηΞ^{1/2} G_B Ξ^{1/2})²]) is κ², known without a search for it.

    So if no eigenvalue of any ηΞ^{1/2} G_B Ξ^{1/2}, none of which is negative, is above 2κ, and vectors are
    left that no minibatch sees, which is so with more weights than outputs.
    """
    widths = batches[0].partition.model.widths
    weights = sum(m_in * m_out for m_in, m_out in pairwise(widths))
    if sum(batch.total for batch in batches) * widths[-1] >= weights:
        return False
    for batch in batches:
        top = sharpness_of(curvature(batch, xi, part="gauss_newton"), tolerance=0.1)
        if not rate * float(top.values[0] * (1 + top.residuals[0])) <= 2 * kept:
            return False
    return True
