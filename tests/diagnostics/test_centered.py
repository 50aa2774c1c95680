"""Diagnostics of centred, scaled networks against automatic differentiation of their own outputs."""

import pytest
import torch

from scaled_sgd.core.losses import Centered, get_loss
from scaled_sgd.core.start import outputs_at_start
from scaled_sgd.diagnostics import (
    Minibatch,
    hessian_trace,
    hessian_vector_product,
    loss_along,
    taylor_coefficients,
)
from scaled_sgd.diagnostics.moved import loss_of_rate
from scaled_sgd.steps.direction import Direction
from tests.oracles import (
    flat_parameters,
    full_gauss_newton,
    full_hessian,
    gradients,
    make_problem,
    mean_loss,
    parameters,
    taylor_series,
    to_flat,
)

CASES = [("cross_entropy", "relu"), ("mse", "relu"), ("cross_entropy", "tanh")]


def moved(loss, activation, dtype=torch.float64):
    """A centred network away from its start, with outputs and f_0 of one size."""
    problem = make_problem(loss=loss, activation=activation, output_scale=0.4)
    problem.model.centered = True
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for W in problem.model.parameters():
            W.add_(0.5 * torch.randn(W.shape, generator=generator, dtype=dtype))
    return problem


@pytest.mark.parametrize(("loss", "activation"), CASES)
def test_signals_curvature_and_taylor_terms_see_the_centred_outputs(loss, activation):
    p = moved(loss, activation)
    xi = torch.tensor([0.3, 1.0, 0.7, 0.2], dtype=torch.float64)
    t = taylor_coefficients(p.model, p.x, p.y, loss=loss, scales=xi)
    for found, wanted in zip((t.c0, t.c1, t.c2, t.c3), taylor_series(p, xi), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    squares = Minibatch(p.model, p.x, p.y, loss=loss).statistics.gradient_squares
    wanted = torch.stack([G.square().sum() for G in gradients(p)])
    torch.testing.assert_close(squares, wanted, rtol=1e-10, atol=0)
    v = torch.randn(flat_parameters(p.model).shape, generator=torch.Generator().manual_seed(2)).double()
    weights = list(p.model.parameters())
    vectors = [
        part.view_as(W) for part, W in zip(v.split([W.numel() for W in weights]), weights, strict=True)
    ]
    for part, matrix in (("hessian", full_hessian(p)), ("gauss_newton", full_gauss_newton(p))):
        found = hessian_vector_product(p.model, p.x, p.y, vectors, loss=loss, part=part)
        torch.testing.assert_close(to_flat(found), matrix @ v, rtol=1e-9, atol=1e-11)
    trace = hessian_trace(p.model, p.x, p.y, loss=loss).value
    torch.testing.assert_close(trace, full_hessian(p).trace(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_losses_at_other_weights_are_those_of_the_centred_network(loss):
    p = moved(loss, "relu")
    u = [torch.ones_like(W) for W in p.model.parameters()]
    batch = Minibatch(p.model, p.x, p.y, loss=loss)
    at_rate = loss_of_rate(batch, Direction(torch.ones(4, dtype=torch.float64)))
    line = loss_along(p.model, p.x, p.y, loss=loss, direction=u, at=[0.0, 0.2])
    assert torch.equal(batch.y, p.y)
    weights = parameters(p.model)
    torch.testing.assert_close(line[0], mean_loss(p, weights))
    there = {name: W + 0.2 for name, W in weights.items()}
    torch.testing.assert_close(line[1], mean_loss(p, there))
    there = {name: W - 0.2 * G for (name, W), G in zip(weights.items(), gradients(p), strict=True)}
    assert at_rate(0.2) == pytest.approx(float(mean_loss(p, there)))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_targets_with_f_0_beside_them_mean_the_same(loss):
    p = moved(loss, "relu")
    centred = Centered(get_loss(loss))
    targets = centred.joined(outputs_at_start(p.model, p.x), p.y)
    wanted = Minibatch(p.model, p.x, p.y, loss=loss)
    p.model.centered = False
    found = Minibatch(p.model, p.x, targets, loss=centred, chunk_size=2)
    torch.testing.assert_close(found.statistics.D, wanted.statistics.D, rtol=1e-12, atol=0)
    assert torch.equal(found.y, p.y)
