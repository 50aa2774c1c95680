"""‖H ĝ‖ of scaled steps against automatic differentiation."""

import pytest
import torch

from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.operators.curvature import drift_along_gradient
from tests.oracles import full_hessian, gradients, make_problem, to_flat


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize(("loss", "activation", "width"), [("mse", "relu", 3), ("cross_entropy", "gelu", 9)])
def test_the_drift_is_that_of_the_full_hessian(loss, activation, width, chunk_size):
    p = make_problem(loss=loss, activation=activation, base_width=width, depth=3)
    xi = torch.tensor([0.3, 2.0, 0.7], dtype=torch.float64)
    g = to_flat([x.sqrt() * G for x, G in zip(xi, gradients(p), strict=True)])
    batch = Minibatch(p.model, p.x, p.y, loss=loss, chunk_size=chunk_size)
    found = drift_along_gradient(batch, xi)
    torch.testing.assert_close(found, (full_hessian(p, xi) @ (g / g.norm())).norm(), rtol=1e-9, atol=0)
