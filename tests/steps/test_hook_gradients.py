"""Sums belong to the gradients they describe, layers to the network that was attached."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from scaled_sgd import DepthwiseScaling, HomogeneousMLP, ScaledSGD
from scaled_sgd.core.errors import UserError
from tests.steps.test_hook import backward, batch, expected_scales, network


def one_step(model, optimizer, x, y):
    optimizer.zero_grad()
    backward(model, x, y)
    optimizer.step()


def clear_by_hand(model):
    for p in model.parameters():
        p.grad = None


CLEARED = {
    "model": lambda model: model.zero_grad(),
    "zeroed": lambda model: model.zero_grad(set_to_none=False),
    "by hand": clear_by_hand,
}


@pytest.mark.parametrize("clear", CLEARED.values(), ids=CLEARED)
@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("static", [False, True])
def test_sums_go_with_their_gradients(clear, folds, static):
    model = network()
    if folds:
        optimizer = ScaledSGD(model, 0.3, static=static)
        scaling = optimizer.scaling
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        scaling = DepthwiseScaling(model, optimizer, static=static)
    backward(model, *batch(n=5, seed=1))
    clear(model)
    x, y = batch()
    expected = expected_scales("norm", model, x, y)
    backward(model, x, y, parts=2)
    optimizer.step()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


@pytest.mark.slow
def test_sums_of_compiled_networks_go_with_their_gradients():
    model = network()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    scaling = DepthwiseScaling(compiled, optimizer)
    x, y = batch()
    expected = expected_scales("norm", model, x, y)
    backward(compiled, x, y)
    model.zero_grad()
    backward(compiled, x, y, parts=1)
    optimizer.step()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("set_to_none", [False, True])
def test_a_static_scale_is_not_that_of_gradients_that_were_cleared(set_to_none):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    scaling = DepthwiseScaling(model, optimizer, static=True)
    backward(model, *batch(seed=1))
    model.zero_grad(set_to_none=set_to_none)
    optimizer.step()
    x, y = batch()
    expected = expected_scales("norm", model, x, y)
    model.zero_grad()
    backward(model, x, y)
    optimizer.step()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("clear", [CLEARED["model"], None], ids=["model", "optimizer"])
def test_a_step_that_overflows_leaves_no_scale(fused, static, clear):
    """A fused optimizer's step runs, and skips itself, where others are not called."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, fused=fused)
    scaling = DepthwiseScaling(model, optimizer, grad_scaler=scaler, static=static)
    x, y = batch()
    expected = expected_scales("norm", model, x, y)
    for factor in (math.inf, 1.0):
        scaler.scale(F.cross_entropy(model(x), y) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        if factor == math.inf:
            assert torch.equal(scaling.scales, torch.ones(4, dtype=torch.float64))
            clear(model) if clear else optimizer.zero_grad()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


def test_an_overflow_in_the_gradients_alone_freezes_no_scale():
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, fused=True)
    scaling = DepthwiseScaling(model, optimizer, grad_scaler=scaler, static=True)
    scaler.scale(F.cross_entropy(model(batch(seed=1)[0]), batch(seed=1)[1])).backward()
    model.layers[1].weight.grad[0, 0] = math.inf
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    x, y = batch()
    expected = expected_scales("norm", model, x, y)
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


def test_a_sample_whose_gradient_is_zero_counts():
    """Its features vanish in the last layer, its backward signal does not."""
    model = nn.Sequential(linear(6, 6), nn.ReLU(), linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaling = DepthwiseScaling(model, optimizer)
    with torch.no_grad():
        model[0].weight.abs_()
    x, y = batch()
    x = torch.cat([-x[:1].abs(), x[1:].abs()])
    scales = []
    for parts in (1, 7):
        optimizer.zero_grad()
        backward(model, x, y, parts=parts)
        optimizer.step()
        scales.append(scaling.scales)
        with torch.no_grad():
            for w in model.parameters():
                w.add_(w.grad, alpha=0.1)
    torch.testing.assert_close(*scales, rtol=1e-9, atol=0)


def test_the_second_gradient_of_a_sharpness_aware_step_has_scales_of_its_own():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    scaling = DepthwiseScaling(model, optimizer)
    x, y = batch()
    backward(model, x, y)
    weights = [w.detach().clone() for w in model.parameters()]
    with torch.no_grad():
        for w in model.parameters():
            w.add_(w.grad, alpha=0.1)
            w.grad = None
    expected = expected_scales("norm", model, x, y)
    backward(model, x, y)
    with torch.no_grad():
        for w, before in zip(model.parameters(), weights, strict=True):
            w.copy_(before)
    optimizer.step()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


def test_a_network_in_the_middle_of_anothers_backward_pass_is_not_measured():
    """A frozen discriminator gets no gradient from the step of its generator."""
    torch.manual_seed(0)
    generator, judge = (nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)).double() for _ in range(2))
    alone = copy.deepcopy(judge)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (generator, judge)]
    scalings = [DepthwiseScaling(m, o) for m, o in zip((generator, judge), optimizers, strict=True)]
    x, _ = batch()
    judge(x).square().sum().backward()
    judge.requires_grad_(False)
    judge(generator(x)).sum().backward()
    judge.requires_grad_(True)
    for optimizer in optimizers:
        optimizer.step()
    expected = ScaledSGD(alone, 0.1)
    alone(x).square().sum().backward()
    expected.step()
    torch.testing.assert_close(scalings[1].scales, expected.scales, rtol=1e-12, atol=0)


def linear(a, b):
    return nn.Linear(a, b, bias=False, dtype=torch.float64)


A, B, C, OUT = linear(6, 6), linear(6, 6), linear(6, 6), linear(6, 3)
USES = [[A, A, OUT], [A, B, A, OUT], [A, B, B, OUT], [A, B, A, B, OUT], [A, B, A], [A, B, C, A, B, C]]


@pytest.mark.parametrize("uses", USES)
@pytest.mark.parametrize("rule", ["norm", "kernel"])
def test_layers_that_are_used_again_are_refused(uses, rule):
    model = nn.Sequential(*uses)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    DepthwiseScaling(model, optimizer, rule=rule)
    message = r"^model: layer .*; allowed: (linear layers applied once|every layer once)"
    with pytest.raises(UserError, match=message):
        one_step(model, optimizer, *batch())


def test_layers_that_run_at_different_rates_are_refused():
    model = nn.ModuleDict({"a": linear(6, 6), "b": linear(12, 3)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    DepthwiseScaling(model, optimizer)
    x, y = batch()
    F.cross_entropy(model["b"](torch.cat([model["a"](x), model["a"](-x)], 1)), y).backward()
    with pytest.raises(UserError, match="layer a ran 2 times and layer b 1 times"):
        optimizer.step()


class Pooled(nn.Module):
    def __init__(self, flat):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = linear(6, 5), linear(15 if flat else 5, 3)
        self.flat = flat

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(h.flatten(1) if self.flat else h.mean(1))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("rule", ["norm", "gain", "kernel"])
def test_means_are_over_the_rows_of_each_layer(flat, rule):
    """Three tokens a sample before the pooling, one row after it."""
    model = Pooled(flat)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaling = DepthwiseScaling(model, optimizer, rule=rule)
    x = torch.randn(7, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = batch()[1]
    z = model.a(x).detach().requires_grad_()
    h = torch.tanh(z).flatten(1) if flat else torch.tanh(z).mean(1)
    f = model.b(h)
    deltas = torch.autograd.grad(F.cross_entropy(f, y), (z, f))
    forward = [t.square().sum(-1).mean() for t in (x, h.detach())]
    back = [n * n * delta.square().sum(-1).mean() for n, delta in zip((21, 7), deltas, strict=True)]
    expected = []
    for F_k, D_k in zip(forward, back, strict=True):
        B_k = D_k / back[-1]
        expected.append({"norm": (F_k * D_k).sqrt(), "gain": (F_k * B_k).sqrt(), "kernel": F_k * B_k}[rule])
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    torch.testing.assert_close(scaling.scales, 1 / (2 * torch.stack(expected)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", ["norm", "gain", "kernel"])
def test_repeated_tokens_change_no_scale(rule):
    scales = []
    for tokens in (1, 4):
        model = Pooled(flat=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaling = DepthwiseScaling(model, optimizer, rule=rule)
        x, y = batch()
        F.cross_entropy(model(x[:, None].expand(-1, tokens, -1)), y).backward()
        optimizer.step()
        scales.append(scaling.scales)
    torch.testing.assert_close(*scales, rtol=1e-12, atol=0)


def unfreeze(model, optimizer):
    model[0].requires_grad_(True)


def unfreeze_and_train(model, optimizer):
    unfreeze(model, optimizer)
    optimizer.add_param_group({"params": list(model[0].parameters())})


def freeze(model, optimizer):
    model[2].requires_grad_(False)


def replace(model, optimizer):
    model[4].weight = nn.Parameter(model[4].weight.detach().clone())


def add(model, optimizer):
    model.append(linear(3, 3))
    optimizer.add_param_group({"params": list(model[5].parameters())})


@pytest.mark.parametrize("change", [unfreeze, unfreeze_and_train, freeze, replace, add])
@pytest.mark.parametrize("folds", [False, True])
def test_a_network_that_trains_other_weights_than_at_first_is_refused(change, folds):
    if folds and change in (unfreeze_and_train, add):
        pytest.skip("ScaledSGD has one group")
    model = nn.Sequential(linear(6, 6), nn.ReLU(), linear(6, 6), nn.ReLU(), linear(6, 3))
    model[0].requires_grad_(False)
    if folds:
        optimizer = ScaledSGD(model, 0.1)
    else:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        DepthwiseScaling(model, optimizer)
    x, y = batch()
    backward(model, x, y)
    optimizer.step()
    optimizer.zero_grad()
    change(model, optimizer)
    backward(model, x, y)
    with pytest.raises(UserError, match="after the scaling was attached; allowed: the same trainable"):
        optimizer.step()


def test_a_network_may_change_its_type_between_microbatches():
    model = network(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaling = DepthwiseScaling(model, optimizer)
    x, y = batch(dtype=torch.float32)
    (F.cross_entropy(model(x[:3]), y[:3], reduction="sum") / 7).backward()
    model.to(torch.float64)
    (F.cross_entropy(model(x[3:].double()), y[3:], reduction="sum") / 7).backward()
    expected = expected_scales("norm", model, x.double(), y)
    optimizer.step()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-5, atol=0)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: Doubled(6, 3), "layer 0 is a Doubled with a forward pass of its own"),
        (lambda: weight_norm(nn.Linear(6, 3)), "layer 0 computes its weight from others"),
        (lambda: prune.identity(nn.Linear(6, 3), "weight"), "layer 0 computes its weight from others"),
    ],
)
def test_layers_that_compute_something_else_are_refused(layer, message):
    with pytest.raises(UserError, match=message):
        DepthwiseScaling(nn.Sequential(layer()))


@pytest.mark.parametrize("size", [1e22, 1e-24])
@pytest.mark.parametrize("rule", ["norm", "gain"])
def test_signals_of_any_size_have_their_scales(size, rule):
    """Their squares are beyond float32, the scales are not."""
    x, y = batch(dtype=torch.float32)
    model = network(dtype=torch.float32)
    optimizer = ScaledSGD(model, 1.0, rule=rule)
    backward(model, size * x, y)
    before = [w.detach().clone() for w in model.parameters()]
    wide = network()
    wide.load_state_dict(model.state_dict())
    expected = expected_scales(rule, wide, (size * x).double(), y)
    optimizer.step()
    torch.testing.assert_close(optimizer.scales, expected, rtol=1e-4, atol=0)
    assert all(not torch.equal(w, old) for w, old in zip(model.parameters(), before, strict=True))


def test_scales_that_float32_cannot_hold_are_refused_and_those_that_vanish_named():
    x, y = batch(dtype=torch.float32)
    optimizer = ScaledSGD(huge := network(dtype=torch.float32), 1.0, rule="kernel")
    backward(huge, 1e22 * x, y)
    with pytest.raises(UserError, match=r"ξ = .* of layer layers\.0 is out of the range of torch\.float32"):
        optimizer.step()
    model = HomogeneousMLP(6, 3, depth=4, base_width=3, seed=0, dtype=torch.float32)
    optimizer = ScaledSGD(model, 1.0, rule="kernel")
    with pytest.warns(UserWarning, match=r"ξ of layer layers\.0 is 0 and its weights do not move"):
        one_step(model, optimizer, 1e-24 * x, y)
    with warnings.catch_warnings(action="error"):
        one_step(model, optimizer, 1e-24 * x, y)
