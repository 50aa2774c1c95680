"""Semidefinite complementarity problems of a few dimensions (theory §10)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Complementary:
    """X with X ⪰ 0, S = A + B[X] ⪰ 0 and ⟨X, S⟩ = 0, up to ``residual``.

    Attributes:
        X: (k, k), float64.
        residual: ‖X − Π(X − S/L)‖ over the size of X, 0 at a solution.
    """

    X: Tensor
    residual: float


def complementary(
    A: Tensor, B: Tensor, *, tolerance: float = 1e-10, max_iterations: int = 20_000
) -> Complementary:
    """Solve 0 ⪯ X ⟂ A + B[X] ⪰ 0 for symmetric A (k, k) and positive semidefinite B (k, k, k, k).

    The conditions are those of the least ½⟨X, B[X]⟩ + ⟨A, X⟩ over X ⪰ 0, which accelerated projected
    gradients with restarts find. If B is singular there may be no solution; the residual then stays.
    """
    k = len(A)
    if not k or float(torch.linalg.eigvalsh(A)[0]) >= 0:
        return Complementary(torch.zeros_like(A), 0.0)
    matrix = B.reshape(k * k, k * k)
    matrix = 0.5 * (matrix + matrix.T)
    L = float(torch.linalg.eigvalsh(matrix)[-1])
    if L <= 0:
        return Complementary(torch.zeros_like(A), 1.0)
    matrix, start = matrix / L, A / L
    X = Y = torch.zeros_like(A)
    weight, residual = 1.0, 1.0
    for _ in range(max_iterations):
        after = _positive(Y - start - (matrix @ Y.reshape(-1)).view(k, k))
        residual = float((after - Y).norm() / after.norm().clamp(min=1e-300))
        if residual <= tolerance:
            return Complementary(after, residual)
        if float(((Y - after) * (after - X)).sum()) > 0:
            weight = 1.0
        following = 0.5 * (1 + (1 + 4 * weight**2) ** 0.5)
        Y = after + (weight - 1) / following * (after - X)
        X, weight = after, following
    return Complementary(X, residual)


def _positive(M: Tensor) -> Tensor:
    """The nearest positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(0.5 * (M + M.T))
    nearest: Tensor = (vectors * values.clamp(min=0)) @ vectors.T
    return nearest
