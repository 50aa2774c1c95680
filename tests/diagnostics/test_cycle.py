"""The predicted cycle of sharpness and oscillation."""

import pytest

from scaled_sgd.diagnostics.cycle import cycle


def test_it_is_gradient_descent_on_the_cubic_of_the_valley() -> None:
    """L = ½ (2/η + v) x² − (α/√β) s with v = √β s, so that λ = 2/η + v, ∇λ ⟂ u, ‖∇λ‖² = β."""
    lr, alpha, beta, x, s = 0.4, 0.01, 0.3, 1e-3, 0.0
    found = cycle(lr, alpha, beta, x=x, y=0.0, steps=200)
    assert max(abs(one) for one, _ in found) > 0.1
    root = beta**0.5
    for one, y in found:
        assert (one, y) == pytest.approx((x, root * s), rel=1e-9, abs=1e-12)
        slopes = (2 / lr + root * s) * x, root * x**2 / 2 - alpha / root
        x, s = x - lr * slopes[0], s - lr * slopes[1]


def test_a_path_ends_where_it_diverges() -> None:
    assert len(cycle(1.0, 1.0, 1.0, x=10.0, y=0.0, steps=500)) < 50
