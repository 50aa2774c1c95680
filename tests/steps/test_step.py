import math

import pytest
import torch

from scaled_sgd import DepthwiseScaling, HomogeneousMLP, ScaledSGD
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import get_loss
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update
from tests.examples import pairwise


def network(activation=(0.4, 0.9)):
    return HomogeneousMLP(6, 3, depth=4, base_width=3, activation=activation, seed=0, dtype=torch.float64)


def minibatch(seed, loss):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    if loss == "mse":
        return x, torch.randn(7, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (7,), generator=generator)


def scale_by(rule, model):
    return DepthwiseScaling(model, rule=rule).measure_elsewhere().direction


def scale_frozen(scales):
    return lambda statistics: Direction(scales[statistics.layers])


def velocities(model):
    held = [torch.zeros_like(weight) for weight in model.parameters()]
    return lambda k: held[k - 1]


def norm_of(model):
    return torch.cat([weight.grad.flatten() for weight in model.parameters()]).norm()


UPDATES = (
    (0.0, 0.0, None, False), (0.1, 0.0, None, False), (0.1, 0.7, None, False), (0.1, 0.7, 0.05, False),
    (0.0, 0.0, 1e9, False), (0.0, 0.0, None, True),
)  # fmt: skip
"""Weight decay, momentum, clipping to a norm, normalising."""


@pytest.mark.parametrize(
    ("rule", "loss", "how", "activation"),
    pairwise(RULES.names, ["cross_entropy", "mse"], UPDATES, ["relu", "abs", (0.4, 0.9)]),
)
def test_the_fused_step_takes_the_steps_of_scaled_sgd(rule, loss, how, activation):
    assert_same_steps(rule, loss, how, activation)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus", "swish"])
@pytest.mark.parametrize(
    ("rule", "loss", "how"),
    [
        ("norm", "cross_entropy", (0.1, 0.0, None, False)),
        ("spectral", "mse", (0.1, 0.7, None, False)),
        ("kernel", "mse", (0.1, 0.7, 0.05, False)),
    ],
)
def test_so_it_does_with_smooth_activations(rule, loss, how, activation):
    assert_same_steps(rule, loss, how, activation)


def assert_same_steps(rule, loss, how, activation):
    weight_decay, momentum, clip, normalize = how
    ours, reference = network(activation), network(activation)
    optimizer = ScaledSGD(reference, 0.2, rule=rule, weight_decay=weight_decay, momentum=momentum)
    ell, held = get_loss(loss), velocities(ours)
    update = Update(0.2, weight_decay, momentum, held, clip, normalize)
    for seed in range(5):
        x, y = minibatch(seed, loss)
        optimizer.zero_grad()
        expected = ell.value(reference(x), y).sum()
        (expected / 7).backward()
        norm = norm_of(reference)
        if clip is not None or normalize:
            optimizer.scaling.factor = 1 / norm if normalize else (clip / (norm + 1e-6)).clamp(max=1)
        optimizer.step()
        scale = scale_by(rule, ours)
        step = take_step(Partition.of(ours), x, y, loss=ell, direct=scale, update=update, measure=True)
        torch.testing.assert_close(step.loss, expected, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(step.scales, optimizer.scales, rtol=1e-10, atol=0)
        torch.testing.assert_close(step.grad_norm, norm, rtol=1e-10, atol=0)
    for a, b in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert all(weight.grad is None for weight in ours.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_wide_layers_are_updated_one_by_one_with_the_same_numbers(momentum, monkeypatch):
    ends = []
    for held in (1 << 20, 0):
        monkeypatch.setattr("scaled_sgd.steps.sizes.HELD", {"cpu": held})
        model, ell = network(), get_loss("mse")
        update, scale = Update(0.2, 0.1, momentum, velocities(model)), scale_by("gain", model)
        for seed in range(4):
            x, y = minibatch(seed, "mse")
            step = take_step(Partition.of(model), x, y, loss=ell, direct=scale, update=update, measure=True)
        ends.append([step.loss, step.grad_norm, step.scales, *model.parameters()])
    torch.testing.assert_close(*ends, rtol=1e-13, atol=1e-15)


def test_frozen_scales_are_used_as_they_are():
    model, twin = network(), network()
    scales = torch.tensor([0.1, 2.0, 0.5, 3.0], dtype=torch.float64)
    x, y = minibatch(0, "mse")
    ell = get_loss("mse")
    gradients = torch.autograd.grad(ell.value(twin(x), y).mean(), list(twin.parameters()))
    step = take_step(Partition.of(model), x, y, loss=ell, direct=scale_frozen(scales), update=Update(0.3))
    assert torch.equal(step.scales, scales)
    for W, V, G, xi in zip(model.parameters(), twin.parameters(), gradients, scales, strict=True):
        torch.testing.assert_close(W, V - 0.3 * xi * G, rtol=1e-12, atol=1e-14)


def test_weights_that_would_only_be_read_as_a_copy_are_refused():
    model = network().to(torch.bfloat16)
    x, y = minibatch(0, "mse")
    with pytest.raises(UserError, match=r"layer 1 is torch.bfloat16; allowed: float32, float64"):
        take_step(
            Partition.of(model),
            x,
            y,
            loss=get_loss("mse"),
            direct=scale_frozen(torch.ones(4)),
            update=Update(0.1),
        )


@pytest.mark.parametrize("k", [1, 3, 4])
def test_of_a_step_whose_loss_is_not_finite_the_sums_of_preactivations_are_shown_in_order(k):
    model, shown = network(), []
    x, y = minibatch(0, "mse")
    z = x @ model.layers[0].weight.detach().T * model.layers[0].multiplier
    options = {"loss": get_loss("mse"), "direct": scale_frozen(torch.ones(4)), "update": Update(0.0)}
    options["see"] = lambda totals, k: shown.extend(enumerate(map(float, totals), start=k))
    take_step(Partition.of(model), x, y, **options)
    assert [place for place, _ in shown] == [5]
    shown.clear()
    with torch.no_grad():
        model.layers[k - 1].weight[0, 0] = -math.inf
    take_step(Partition.of(model), x, y, **options)
    assert [(place, math.isfinite(total)) for place, total in shown] == [(j, j < k) for j in (1, 2, 3, 4, 5)]
    assert k == 1 or shown[0][1] == pytest.approx(float(z.sum()), rel=1e-5)


def test_an_output_that_the_loss_hides_is_shown_too():
    model, shown = network("abs"), []
    x, _ = minibatch(0, "cross_entropy")
    with torch.no_grad():
        model.layers[3].weight[0] = -math.inf
        model.layers[3].weight[1:] = 0
    step = take_step(
        Partition.of(model), x, torch.ones(7, dtype=torch.int64), loss=get_loss("cross_entropy"),
        direct=scale_frozen(torch.ones(4)), update=Update(0.0),
        see=lambda totals, k: shown.extend(range(k, k + len(totals))),
    )  # fmt: skip
    assert step.loss / step.n == pytest.approx(math.log(2))
    assert shown == [1, 2, 3, 4, 5]
