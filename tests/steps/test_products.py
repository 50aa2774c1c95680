"""Products of bfloat16 factors: what a fused step rounds, and what it keeps in float32."""

import pytest
import torch

from scaled_sgd import DepthwiseScaling, HomogeneousMLP
from scaled_sgd.core.losses import get_loss
from scaled_sgd.core.products import NARROW, add_product_, matmul
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.stack import Stack
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update

LR, MOMENTUM, DECAY = 0.5, 0.7, 0.01
N, WIDTHS = 40, (20, 6, 24, 54, 5)


def network(activation="abs", seed=0):
    return HomogeneousMLP(20, 5, depth=4, base_width=6, activation=activation, seed=seed)


def minibatch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, 20, generator=generator), torch.randint(5, (N,), generator=generator)


def rounded(t):
    return t.to(NARROW).double()


def reference(model, x, y, velocities, round_=rounded):
    """A step of ``norm`` with squared error by theory §1 to §3, in float64, rounding factors."""
    weights = [layer.weight.detach().double() for layer in model.scaled_layers]
    alpha = [layer.multiplier for layer in model.scaled_layers]
    omega = [layer.layer_weight for layer in model.scaled_layers]
    h, z = [round_(x.double())], []
    for k, W in enumerate(weights):
        z.append(alpha[k] * h[k] @ round_(W).T)
        h.append(round_(model.activation.value(z[k])))
    delta = round_(z[-1] - y)
    for k in range(len(weights) - 1, -1, -1):
        F, D = alpha[k] ** 2 * h[k].square().sum() / N, delta.square().sum() / N
        xi = omega[k] / (len(weights) * (F * D).sqrt())
        v = velocities[k] = MOMENTUM * velocities[k] + xi * alpha[k] / N * delta.T @ h[k] + DECAY * weights[k]
        if k:
            below = alpha[k] * delta @ round_(weights[k])
            delta = round_(below * slope(model.activation, z[k - 1]))
        weights[k] = weights[k] - LR * v
    return weights


def slope(phi, z):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(phi.value(z).sum(), z)[0]


def fused(model, x, y, velocities, *, lr=LR, rule="norm"):
    taken = take_step(
        Partition.of(model, factors=NARROW),
        x,
        y,
        loss=get_loss("mse"),
        direct=DepthwiseScaling(model, rule=rule).measure_elsewhere().direction,
        update=Update(lr, DECAY, MOMENTUM, lambda k: velocities[k - 1]),
        measure=True,
    )
    assert taken.loss.dtype == torch.float64
    return [layer.weight.detach().double() for layer in model.scaled_layers]


def distance(ours, theirs, before):
    """Largest relative error of a layer's change."""
    return max(float((a - b).norm() / (b - c).norm()) for a, b, c in zip(ours, theirs, before, strict=True))


@pytest.mark.parametrize("activation", ["abs", "relu", "tanh"])
def test_a_step_multiplies_rounded_factors_and_rounds_nothing_else(activation):
    model, (x, _) = network(activation), minibatch()
    y = torch.randn(N, 5, generator=torch.Generator().manual_seed(2))
    shapes = [layer.weight.shape for layer in model.scaled_layers]
    before = [layer.weight.detach().double() for layer in model.scaled_layers]
    held, other = ([torch.zeros(s, dtype=torch.float64) for s in shapes] for _ in range(2))
    expected = reference(model, x, y, held)
    without = reference(model, x, y, other, round_=lambda t: t)
    ours = fused(model, x, y, [torch.zeros(s) for s in shapes])
    # A sum in another order rounds a factor the other way now and then.
    assert distance(ours, expected, before) < 2e-4
    assert distance(expected, without, before) > 1e-3


def test_a_rate_on_the_device_costs_one_more_rounding_of_a_factor():
    numbers = [network(), network()]
    x, y = minibatch()[0], torch.ones(N, 5)
    before = [layer.weight.detach().double() for layer in numbers[0].scaled_layers]
    held = [[torch.zeros_like(W) for W in model.parameters()] for model in numbers]
    by_number = fused(numbers[0], x, y, held[0])
    by_tensor = fused(numbers[1], x, y, held[1], lr=torch.tensor(LR, dtype=torch.float64))
    assert distance(by_tensor, by_number, before) < 4e-3


@pytest.mark.parametrize("rule", RULES.names)
def test_every_rule_takes_them(rule):
    steps = []
    for factors in (None, NARROW):
        model, (x, y) = network(), minibatch()
        before = [W.detach().clone() for W in model.parameters()]
        taken = take_step(
            Partition.of(model, factors=factors),
            x,
            y,
            loss=get_loss("cross_entropy"),
            direct=DepthwiseScaling(model, rule=rule).measure_elsewhere().direction,
            update=Update(0.5, clip_norm=1e6),
            measure=True,
        )
        assert taken.scales.isfinite().all()
        change = [W.detach() - old for W, old in zip(model.parameters(), before, strict=True)]
        steps.append((taken.soft_ranks, torch.cat([t.flatten() / t.norm() for t in change])))
    (ranks, plain), (narrow_ranks, narrow) = steps
    assert torch.allclose(ranks, narrow_ranks, rtol=0.02)
    assert float(plain @ narrow) / len(WIDTHS[1:]) > 0.98


def stepped(networks, rule, x, y, lr, clip_norm):
    """The results of a step at a rate on the device, and the changes of all weights."""
    before = [networks.local(k).clone() for k in range(1, 5)]
    taken = take_step(
        networks,
        x,
        y,
        loss=get_loss("cross_entropy"),
        direct=RULES[rule],
        update=Update(lr, DECAY, clip_norm=clip_norm),
        measure=True,
    )
    return taken, [networks.local(k) - W for k, W in enumerate(before, start=1)]


@pytest.mark.parametrize("rule", RULES.names)
def test_networks_of_a_stack_take_the_steps_of_each_alone(rule):
    """To the roundings of factors that a sum in another order turns, as against the reference above."""
    (x, y), rate = minibatch(), torch.tensor(LR, dtype=torch.float64)
    stack = Stack([network(seed=seed) for seed in range(3)], factors=NARROW)
    clipped = torch.full((3,), 0.1, dtype=torch.float64)
    taken, changes = stepped(stack, rule, x, y.expand(3, N), rate.expand(3, 1, 1), clipped)
    assert not stack._waiting
    for row in range(3):
        alone = Partition.of(network(seed=row), factors=NARROW)
        one, expected = stepped(alone, rule, x, y, rate, 0.1)
        torch.testing.assert_close(taken.loss[row], one.loss, rtol=1e-4, atol=0)
        torch.testing.assert_close(taken.soft_ranks[row], one.soft_ranks, rtol=1e-3, atol=0)
        for change, other in zip(changes, expected, strict=True):
            assert float((change[row] - other).norm() / other.norm()) < 2e-4


def test_a_weight_is_rounded_once_a_step_and_its_copy_freed(monkeypatch):
    model, (x, y) = network(), minibatch()
    partition, of_weights = Partition.of(model, factors=NARROW), []
    shapes = {tuple(W.shape) for W in model.parameters()}
    to = torch.Tensor.to

    def counted(t, *args, **kwargs):
        if args == (NARROW,) and tuple(t.shape) in shapes:
            of_weights.append(tuple(t.shape))
        return to(t, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", counted)
    scale = DepthwiseScaling(model).measure_elsewhere().direction
    take_step(partition, x, y, loss=get_loss("cross_entropy"), direct=scale, update=Update(0.1))
    assert sorted(of_weights) == sorted(shapes)
    assert not partition._waiting


def test_products_are_of_the_factors_as_rounded():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(30, 30, generator=generator) for _ in range(2))
    exact = rounded(a) @ rounded(b)
    assert torch.allclose(matmul(a.to(NARROW), b.to(NARROW)).double(), exact, rtol=1e-5, atol=1e-5)
    target = torch.ones(30, 30)
    add_product_(target, a.to(NARROW), b.to(NARROW), beta=0.5, alpha=2.0)
    assert torch.allclose(target.double(), 0.5 + 2 * exact, rtol=1e-5, atol=1e-5)
    # The kernels of a GPU take the same arguments; a device without values checks types and shapes.
    meta = add_product_(*(t.to("meta") for t in (target, a.to(NARROW), b.to(NARROW))), beta=0.5, alpha=2.0)
    assert meta.dtype == torch.float32
    assert matmul(a.to("meta", NARROW), b.to("meta", NARROW)).dtype == torch.float32
