"""A hook acts before an optimizer's step, once, and leaves it as it was."""

import pytest
import torch

from scaled_sgd import DepthwiseScaling, ScaledSGD
from scaled_sgd.core.errors import UserError
from tests.steps.test_hook import backward, batch, expected_scales, network


def test_closures_are_scaled_too():
    model, reference = network(), network()
    x, y = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    DepthwiseScaling(model, optimizer)
    expected = ScaledSGD(reference, 0.3, momentum=0.9)

    def closure():
        optimizer.zero_grad()
        backward(model, x, y)
        return torch.zeros(())

    for step in range(3):
        optimizer.step(closure) if step % 2 else optimizer.step(closure=closure)
        expected.zero_grad()
        backward(reference, x, y)
        expected.step()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_detached_models_and_optimizers_are_as_before():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaling = DepthwiseScaling(model, optimizer)
    scaling.detach()
    backward(model, *batch())
    raw = [weight.grad.clone() for weight in model.parameters()]
    optimizer.step()
    assert "zero_grad" not in vars(optimizer)
    assert all(not layer._forward_hooks for layer in model.layers)
    for weight, G in zip(model.parameters(), raw, strict=True):
        assert torch.equal(weight.grad, G)


def test_the_cell_that_attaches_a_hook_may_run_again():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    old = DepthwiseScaling(model, optimizer)
    with pytest.warns(UserWarning, match="another DepthwiseScaling was attached to it and is detached"):
        DepthwiseScaling(model, optimizer)
    x, y = batch()
    expected = expected_scales("norm", model, x, y)
    backward(model, x, y)
    raw = [weight.grad.clone() for weight in model.parameters()]
    optimizer.step()
    for weight, G, xi in zip(model.parameters(), raw, expected, strict=True):
        torch.testing.assert_close(weight.grad, xi * G, rtol=1e-11, atol=1e-14)
    assert torch.equal(old.scales, torch.ones(4, dtype=torch.float64))


def test_an_optimizer_that_scales_itself_takes_no_hook():
    model = network()
    with pytest.raises(UserError, match="optimizer: ScaledSGD scales its steps itself"):
        DepthwiseScaling(model, ScaledSGD(model, 0.3))
