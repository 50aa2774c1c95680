"""How the top eigenvalue of the Hessian changes along the gradient: what sharpens, what stabilises."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from scaled_sgd.diagnostics.eigenpairs import Eigenpairs, sharpness_of
from scaled_sgd.diagnostics.generic_line import check_unchunked
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.operators.autograd import GenericCurvature
from scaled_sgd.diagnostics.operators.curvature import curvature
from scaled_sgd.diagnostics.operators.third_derivative import (
    eigenvalue_gradient,
    generic_eigenvalue_gradient,
)
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.steps.minibatch import Minibatch, gradient_rows


@dataclass(frozen=True)
class ThirdOrderTerms:
    """Products of ∇λ with the gradient and itself, for the top eigenvalue λ of H with eigenvector u.

    All are nan if H is 0 or not finite.

    Attributes:
        pairs: λ and u.
        eigenvalue_gradient: ∇λ, this process's rows of each layer; of other networks a tensor for each
            trainable parameter tensor.
        progressive_sharpening: α = −⟨∇L, ∇λ⟩.
        self_stabilization: β = ‖∇λ‖².
        progressive_sharpening_across: α with ∇λ made orthogonal to u.
        self_stabilization_across: β with ∇λ made orthogonal to u.
        swing: |⟨u, ∇L⟩|/|λ|.
    """

    pairs: Eigenpairs
    eigenvalue_gradient: list[Tensor]
    progressive_sharpening: float
    self_stabilization: float
    progressive_sharpening_across: float
    self_stabilization_across: float
    swing: float


@torch.no_grad()
@without_autocast
def third_order(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: str,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    warm_start: Eigenpairs | Tensor | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
) -> ThirdOrderTerms:
    """α = −⟨∇L, ∇λ⟩ and β = ‖∇λ‖² on the global minibatch, ∇λ = ∇(uᵀHu) at fixed u (arXiv 2209.15594).

    Exact for a simple λ but for the error of u, about tolerance · λ/(λ − λ_2). With piecewise linear
    activations that of the pieces. Beside the search 5 gradients.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded; other networks take the generic path, without
            chunks.
        x: this process's samples.
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        tolerance: on the residual of u.
        max_iterations: largest number of Hessian products.
        warm_start: eigenpairs of an earlier call.
        chunk_size: largest number of samples at a time.
        seed: seed of the start vector.

    Raises:
        UserError: invalid arguments.
    """
    search = partial(
        sharpness_of,
        tolerance=tolerance,
        max_iterations=max_iterations,
        warm_start=warm_start,
        seed=seed,
    )
    if is_homogeneous(model):
        batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
        pairs = search(curvature(batch))
        u, total = _top_vector(pairs), batch.partition.sum
        slope, gradient = eigenvalue_gradient(batch, u), _flat([*gradient_rows(batch).values()])
    else:
        check_unchunked(chunk_size)
        operator = GenericCurvature(model, x, y, loss=loss)
        pairs = search(operator)
        u, total, problem = _top_vector(pairs), operator.vectors.sum, operator.problem
        slope = operator.vectors.expand(generic_eigenvalue_gradient(problem, _flat(u)))
        gradient = problem.gradient()
    products = total(slope_products(gradient, _flat(slope), _flat(u))).tolist()
    return ThirdOrderTerms(pairs, slope, **slope_columns(float(pairs.values[0]) or math.nan, products))


def _top_vector(pairs: Eigenpairs) -> list[Tensor]:
    """u, or nan if there is none."""
    u = pairs.expand()
    return u if abs(float(pairs.values[0])) > 0 else [torch.full_like(rows, math.nan) for rows in u]


def slope_products(gradient: Tensor, slope: Tensor, u: Tensor) -> Tensor:
    """⟨∇L, ∇λ⟩, ‖∇λ‖², ⟨u, ∇λ⟩ and ⟨u, ∇L⟩ of this process's rows, (4,), float64."""
    pairs = ((gradient, slope), (slope, slope), (u, slope), (u, gradient))
    return torch.stack([torch.dot(a, b) for a, b in pairs]).double()


def slope_columns(value: float, products: Sequence[float]) -> dict[str, float]:
    """The numbers of :class:`ThirdOrderTerms` from λ and the sums of :func:`slope_products`."""
    alpha, beta, along, gradient_along = -products[0], *products[1:]
    return {
        "progressive_sharpening": alpha,
        "self_stabilization": beta,
        "progressive_sharpening_across": alpha + along * gradient_along,
        "self_stabilization_across": beta - along**2,
        "swing": abs(gradient_along / value),
    }


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])
