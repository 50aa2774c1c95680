"""Gauss quadrature of spectral measures by Lanczos (Golub, Welsch, Math. Comp. 23, 1969)."""

import torch
from torch import Tensor

from scaled_sgd.diagnostics.algorithms.krylov import Basis, products_ahead
from scaled_sgd.diagnostics.operators.space import Operator


@torch.no_grad()
def quadrature(operator: Operator, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Gauss quadrature of the spectral measure of ``start``: nodes and weights, at most ``steps`` each."""
    basis = Basis(operator, steps)
    if not basis.begin(start):
        return basis.T.new_zeros(1), basis.T.new_ones(1)
    scale, ahead = 0.0, products_ahead(basis.vectors.device)
    while True:
        first = basis.count
        for count, beta in enumerate(basis.grow(min(ahead, steps - first)), start=first + 1):
            theta, S = torch.linalg.eigh(basis.T[:count, :count])
            scale = max(scale, float(theta.abs().max()))
            if count == steps or beta <= 10 * torch.finfo(start.dtype).eps * scale:
                return theta, S[0].square()
        basis.advance()
