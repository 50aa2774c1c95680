"""The cycle of sharpness and oscillation at the edge of stability (arXiv 2209.15594; theory §9)."""

import math


def cycle(
    lr: float, alpha: float, beta: float, *, x: float, y: float, steps: int
) -> list[tuple[float, float]]:
    """(x_t, y_t) of t = 0..steps: x along the top eigenvector u of H from the valley's floor, y = λ − 2/η.

    With ∇L = λxu + ½x²∇λ at x from a point where ∇L ⟂ u, and λ = 2/η + y,

        x ← −(1 + ηy) x,    y ← y + η(α − βx²/2),

    α = −⟨∇L, ∇λ⟩ and β = ‖∇λ‖² of the part of ∇λ orthogonal to u, at rest. The path ends where it diverges.
    """
    path = [(x, y)]
    while len(path) <= steps:
        x, y = -(1 + lr * y) * x, y + lr * (alpha - beta * x * x / 2)
        if not math.isfinite(y):
            break
        path.append((x, y))
    return path
