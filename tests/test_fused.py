import pytest
import torch

from scaled_sgd import HomogeneousMLP, ScaledSGD
from scaled_sgd.fused import fused_step, scale_by, scale_frozen
from scaled_sgd.losses import get_loss
from scaled_sgd.scaling import RULES, get_rule


def network():
    return HomogeneousMLP(6, 3, depth=4, base_width=3, activation=(0.4, 0.9), seed=0, dtype=torch.float64)


def minibatch(seed, loss):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    if loss == "mse":
        return x, torch.randn(7, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (7,), generator=generator)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_fused_step_takes_the_steps_of_scaled_sgd(rule, loss, weight_decay):
    fused, reference = network(), network()
    optimizer = ScaledSGD(reference, 0.2, rule=rule, weight_decay=weight_decay)
    ell = get_loss(loss)
    for seed in range(6):
        x, y = minibatch(seed, loss)
        optimizer.zero_grad()
        expected = ell.value(reference(x), y).mean()
        expected.backward()
        optimizer.step()
        value, scales = fused_step(
            fused, x, y, loss=ell, scale=scale_by(get_rule(rule), fused), lr=0.2, weight_decay=weight_decay
        )
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(scales, optimizer.scales, rtol=1e-10, atol=0)
    for a, b in zip(fused.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    assert all(weight.grad is None for weight in fused.parameters())


def test_frozen_scales_are_used_as_they_are():
    model, twin = network(), network()
    scales = torch.tensor([0.1, 2.0, 0.5, 3.0], dtype=torch.float64)
    x, y = minibatch(0, "mse")
    ell = get_loss("mse")
    gradients = torch.autograd.grad(ell.value(twin(x), y).mean(), list(twin.parameters()))
    _, used = fused_step(model, x, y, loss=ell, scale=scale_frozen(scales), lr=0.3)
    assert torch.equal(used, scales)
    for W, V, G, xi in zip(model.parameters(), twin.parameters(), gradients, scales, strict=True):
        torch.testing.assert_close(W, V - 0.3 * xi * G, rtol=1e-11, atol=1e-13)
