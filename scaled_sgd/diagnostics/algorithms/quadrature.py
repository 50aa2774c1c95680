"""Gauss quadrature of spectral measures by Lanczos (Golub, Welsch, Math. Comp. 23, 1969)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.diagnostics.algorithms.krylov import Basis, products_ahead
from scaled_sgd.diagnostics.operators.space import Operator


@dataclass(frozen=True)
class Quadrature:
    """A quadrature of the spectral measure of a vector, float64 on the CPU, nodes ascending.

    Attributes:
        nodes: Ritz values.
        weights: of sum 1.
        residuals: ‖Hv − λv‖ of the nodes λ with their Ritz vectors v.
    """

    nodes: Tensor
    weights: Tensor
    residuals: Tensor


@torch.no_grad()
def quadrature(operator: Operator, start: Tensor, steps: int) -> Quadrature:
    """Gauss quadrature of the spectral measure of ``start``: at most ``steps`` nodes.

    One node, nan, if the operator is not finite.
    """
    basis = Basis(operator, steps)
    if not basis.begin(start):
        return Quadrature(basis.T.new_zeros(1), basis.T.new_ones(1), basis.T.new_zeros(1))
    scale, ahead = 0.0, products_ahead(basis.vectors.device)
    while True:
        first = basis.count
        for count, beta in enumerate(basis.grow(min(ahead, steps - first)), start=first + 1):
            if not math.isfinite(beta):
                return Quadrature(*(basis.T.new_full((1,), math.nan) for _ in range(3)))
            theta, S = torch.linalg.eigh(basis.T[:count, :count])
            scale = max(scale, float(theta.abs().max()))
            if count == steps or beta <= 10 * torch.finfo(start.dtype).eps * scale:
                return Quadrature(theta, S[0].square(), beta * S[-1].abs())
        basis.advance()
