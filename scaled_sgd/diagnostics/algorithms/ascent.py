"""Conditional gradients for the largest value of a quadratic form on a ball: a lower bound (theory §9)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.diagnostics.operators.space import Operator

Touch = Callable[[Tensor, Tensor], tuple[Tensor, float]]
"""From coefficients and dual of p: the dual of s, where ⟨s, p⟩ is largest on the ball, and ⟨s, p⟩."""


@dataclass(frozen=True)
class Ascent:
    """Where an ascent ended.

    Attributes:
        value: dᵀAd at a d in the ball.
        product: coefficients of A d.
        gap: ⟨s − d, A d⟩ / |value| for the best s of the ball: 0 at a stationary point.
        iterations: number of products.
    """

    value: float
    product: Tensor
    gap: float
    iterations: int


@torch.no_grad()
def ascend(
    operator: Operator, touch: Touch, start: Tensor, *, tolerance: float = 1e-3, max_iterations: int = 50
) -> Ascent:
    """Ascend dᵀAd on a ball from the point that ``touch`` gives for ``start`` (coefficients).

    d ← d + γ(s − d) with the best s for the slope A d and the best γ ≤ 1, which is 1 where the form is convex
    along s − d. Never descends, for any symmetric A. It ends at a stationary point, of which there can be
    several: the value is a lower bound of the largest. One product and one dual an iteration.
    """
    vectors = operator.vectors

    def product(dual: Tensor) -> Tensor:
        return operator.multiply(dual, torch.empty_like(dual))

    d, _ = touch(start, vectors.dual(start))
    p = product(d)
    value = float(vectors.sum(torch.dot(p, d).double()))
    iterations, gap = 1, 0.0
    while True:
        s, top = touch(p, vectors.dual(p))
        gap = top - value
        if not gap > tolerance * abs(value) or iterations >= max_iterations:
            break
        q = product(s)
        iterations += 1
        bend = float(vectors.sum(torch.dot(q, s).double())) - 2 * top + value
        gamma = 1.0 if bend >= 0 else min(1.0, -gap / bend)
        value += 2 * gamma * gap + gamma**2 * bend
        p = p.lerp_(q, gamma)
    return Ascent(value, p, gap / abs(value) if value else 0.0, iterations)
