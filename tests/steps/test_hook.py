import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from scaled_sgd import DepthwiseScaling, HomogeneousMLP, ScaledSGD, sharpness
from scaled_sgd.core.errors import UserError
from scaled_sgd.steps.rules import RULES
from tests.examples import examples

MEASURING = ["norm", "gain", "kernel"]


def network(**changes):
    options = {"depth": 4, "base_width": 3, "seed": 0, "dtype": torch.float64, "activation": "abs"} | changes
    return HomogeneousMLP(6, 3, **options)


def batch(n=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator, dtype=dtype)
    return x * (6**0.5 / x.norm(dim=1, keepdim=True)), torch.randint(3, (n,), generator=generator)


def signals(model, x, y):
    """h_{k−1} and δ_k of every sample alone, from autograd on the sum of losses: the reference."""
    h, z = [], []
    out = x
    for k, layer in enumerate(model.layers):
        h.append(out)
        z.append((layer.multiplier * out) @ layer.weight.T)
        if k < len(model.layers) - 1:
            out = model.activation.a * z[-1] + model.activation.b * z[-1].abs()
    delta = torch.autograd.grad(F.cross_entropy(z[-1], y, reduction="sum"), z)
    return h, delta


def expected_scales(rule, model, x, y):
    """The table of theory §3, written out."""
    h, delta = signals(model, x, y)
    n, depth = len(x), len(h)
    residual = delta[-1].square().sum() / n
    scales = []
    for layer, h_k, delta_k in zip(model.layers, h, delta, strict=True):
        forward = layer.multiplier**2 * h_k.square().sum() / n
        backward = delta_k.square().sum() / n
        backward_gain = backward / residual
        denominator = {
            "none": layer.layer_weight * torch.ones((), dtype=torch.float64),
            "norm": depth * (forward * backward).sqrt(),
            "gain": depth * (forward * backward_gain).sqrt(),
            "kernel": depth * forward * backward_gain,
            "unit": depth * layer.multiplier / n * (delta_k.T @ h_k).norm(),
        }[rule]
        scales.append((layer.layer_weight / denominator).item())
    return torch.tensor(scales, dtype=torch.float64)


def backward(model, x, y, parts=1):
    for x_part, y_part in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
        (F.cross_entropy(model(x_part), y_part, reduction="sum") / len(x)).backward()


@pytest.mark.parametrize("rule", [rule.name for rule in RULES.entries if rule.scalar])
@pytest.mark.parametrize("parameterization", ["nup", "ntp", "sp", "mup"])
def test_scales_are_those_of_the_table(rule, parameterization):
    model = network(parameterization=parameterization)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaling = DepthwiseScaling(model, optimizer, rule=rule)
    x, y = batch()
    expected = expected_scales(rule, model, x, y)
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    backward(model, x, y)
    optimizer.step()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)
    for weight, gradient, xi in zip(model.parameters(), gradients, expected, strict=True):
        torch.testing.assert_close(weight.grad, xi * gradient, rtol=1e-11, atol=1e-14)


@examples(10)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 1000))
def test_a_scaled_gradient_is_never_longer_than_its_share(n, depth, seed):
    """‖ξ_k G_k‖_F ≤ ω_k / l, with equality for one sample, whose gradient has soft rank 1."""
    model = network(depth=depth, seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    DepthwiseScaling(model, optimizer)
    backward(model, *batch(n, seed))
    optimizer.step()
    for layer in model.layers:
        share = layer.layer_weight / depth
        length = layer.weight.grad.norm().item()
        assert length <= share * (1 + 1e-9)
        if n == 1:
            assert length == pytest.approx(share)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_microbatches_give_the_scales_of_the_whole_batch(parts):
    whole, split = (network() for _ in range(2))
    scales = []
    for model, count in ((whole, 1), (split, parts)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        scaling = DepthwiseScaling(model, optimizer)
        backward(model, *batch(), parts=count)
        optimizer.step()
        scales.append(scaling.scales)
    torch.testing.assert_close(*scales, rtol=1e-12, atol=0)
    for a, b in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_evaluation_and_abandoned_forward_passes_leave_no_trace():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    scaling = DepthwiseScaling(model, optimizer)
    x, y = batch()
    expected = expected_scales("norm", model, x, y)
    other_x, other_y = batch(n=5, seed=1)
    with torch.no_grad():
        model(other_x)
    model(other_x)
    backward(model, other_x, other_y)
    optimizer.zero_grad()
    backward(model, x, y)
    model(other_x)
    optimizer.step()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_does_not_count_twice(reentrant):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    scaling = DepthwiseScaling(model, optimizer)
    x, y = batch()
    expected = expected_scales("norm", model, x, y)

    def first_half(h):
        return model.apply_activation(model.layers[1](model.apply_activation(model.layers[0](h))))

    h = checkpoint(first_half, x.requires_grad_(), use_reentrant=reentrant)
    f = model.layers[3](model.apply_activation(checkpoint(model.layers[2], h, use_reentrant=reentrant)))
    F.cross_entropy(f, y).backward()
    optimizer.step()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


@pytest.mark.slow
def test_compiled_networks_are_measured_alike():
    model = network()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    scaling = DepthwiseScaling(compiled, optimizer)
    for seed in range(3):
        x, y = batch(seed=seed)
        expected = expected_scales("norm", model, x, y)
        optimizer.zero_grad()
        with torch.no_grad():
            compiled(x)
        backward(compiled, x, y, parts=2)
        optimizer.step()
        torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


def make_sgd(model, momentum, weight_decay):
    return torch.optim.SGD(model.parameters(), lr=0.3, momentum=momentum, weight_decay=weight_decay)


@pytest.mark.parametrize("rule", RULES.names)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_scaled_sgd_takes_the_steps_of_sgd_with_the_hook(rule, momentum, weight_decay):
    hooked, fused = network(), network()
    sgd = make_sgd(hooked, momentum, weight_decay)
    scaling = DepthwiseScaling(hooked, sgd, rule=rule)
    scaled = ScaledSGD(fused, 0.3, rule=rule, momentum=momentum, weight_decay=weight_decay)
    for seed in range(5):
        for model, optimizer in ((hooked, sgd), (fused, scaled)):
            optimizer.zero_grad()
            backward(model, *batch(seed=seed))
            optimizer.step()
        torch.testing.assert_close(scaled.scales, scaling.scales, rtol=1e-10, atol=0)
    for a, b in zip(hooked.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_momentum_sees_scaled_gradients_and_weight_decay_is_not_scaled():
    """v ← μ v + ξ G + λ W, W ← W − η v, written out over two steps."""
    model, mu, decay, lr = network(), 0.9, 0.1, 0.3
    optimizer = ScaledSGD(model, lr, momentum=mu, weight_decay=decay)
    expected = [weight.detach().clone() for weight in model.parameters()]
    velocity = [torch.zeros_like(weight) for weight in expected]
    for seed in range(2):
        x, y = batch(seed=seed)
        scales = expected_scales("norm", model, x, y)
        gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        for W, v, G, xi in zip(expected, velocity, gradients, scales, strict=True):
            v.mul_(mu).add_(xi * G + decay * W)
            W.sub_(lr * v)
        optimizer.zero_grad()
        backward(model, x, y)
        optimizer.step()
    for weight, W in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.detach(), W, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.NAdam]
)
def test_any_optimizer_sees_scaled_gradients(make):
    model = network()
    optimizer = make(model.parameters(), lr=0.01)
    DepthwiseScaling(model, optimizer)
    twin = copy.deepcopy(network())
    plain = make(twin.parameters(), lr=0.01)
    for seed in range(3):
        x, y = batch(seed=seed)
        scales = expected_scales("norm", twin, x, y)
        for current, chosen in ((model, optimizer), (twin, plain)):
            chosen.zero_grad()
            backward(current, x, y)
            if current is twin:
                for weight, xi in zip(twin.parameters(), scales, strict=True):
                    weight.grad.mul_(xi)
            chosen.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_clipping_acts_on_the_gradients_before_they_are_scaled():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    scaling = DepthwiseScaling(model, optimizer)
    backward(model, *batch())
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    clipped = [weight.grad.clone() for weight in model.parameters()]
    optimizer.step()
    assert norm > 1e-3
    for weight, G, xi in zip(model.parameters(), clipped, scaling.scales, strict=True):
        torch.testing.assert_close(weight.grad, xi * G)


def test_a_gradient_scaler_is_taken_out_of_the_norms():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    scaling = DepthwiseScaling(model, optimizer, grad_scaler=scaler)
    x, y = batch()
    expected = expected_scales("norm", model, x, y)
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


def test_a_step_that_the_gradient_scaler_skips_does_not_spoil_the_next():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model = network()
    optimizer = ScaledSGD(model, 0.3, grad_scaler=scaler)
    x, y = batch()
    scaler.scale(F.cross_entropy(model(x), y) * math.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    expected = expected_scales("norm", model, x, y)
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(optimizer.scales, expected, rtol=1e-12, atol=0)


def test_bfloat16_autocast_measures_norms_to_the_precision_of_its_signals():
    model = network(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    scaling = DepthwiseScaling(model, optimizer)
    x, y = batch(dtype=torch.float32)
    expected = expected_scales("norm", model, x, y)
    with torch.autocast("cpu", torch.bfloat16):
        f = model(x)
    F.cross_entropy(f.float(), y).backward()
    optimizer.step()
    torch.testing.assert_close(scaling.scales, expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("rule", MEASURING)
def test_static_scales_stay_those_of_the_first_step(rule):
    model = network()
    optimizer = ScaledSGD(model, 0.3, rule=rule, static=True)
    expected = expected_scales(rule, model, *batch())
    for seed in range(3):
        optimizer.zero_grad()
        backward(model, *batch(seed=seed))
        optimizer.step()
        torch.testing.assert_close(optimizer.scales, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", RULES.names)
def test_vanishing_signals_give_finite_scales_and_no_step(rule):
    x, y = batch(n=1)
    dead = network(activation="relu")
    with torch.no_grad():
        dead.layers[1].weight.fill_(-1.0)
        dead.layers[0].weight.abs_()
    for model, inputs in ((network(), torch.zeros_like(x)), (dead, x.abs())):
        optimizer = ScaledSGD(model, 1.0, rule=rule)
        before = [weight.detach().clone() for weight in model.parameters()]
        backward(model, inputs, y)
        vanished = [not weight.grad.any() for weight in model.parameters()]
        optimizer.step()
        assert optimizer.scales.isfinite().all()
        assert any(vanished)
        for weight, old, gone in zip(model.parameters(), before, vanished, strict=True):
            assert weight.isfinite().all()
            assert torch.equal(weight, old) or not gone


@pytest.mark.parametrize("rule", RULES.names)
def test_a_zero_residual_gives_finite_scales_and_no_step(rule):
    model = network()
    x, _ = batch()
    optimizer = ScaledSGD(model, 1.0, rule=rule)
    f = model(x)
    (f - f.detach()).square().sum().backward()
    before = [weight.detach().clone() for weight in model.parameters()]
    optimizer.step()
    assert optimizer.scales.isfinite().all()
    for weight, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(weight, old)


class WithBias(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.first = nn.Linear(6, 8, bias=bias, dtype=torch.float64)
        self.second = nn.Linear(8, 3, bias=bias, dtype=torch.float64)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.parametrize("bias", [False, True])
def test_foreign_models_of_linear_layers_are_scaled_bias_with_its_layer(bias):
    """A bias is the weight of a feature that is always 1, and ‖ξ [G, g]‖ ≤ 1/l holds with it."""
    torch.manual_seed(0)
    model = WithBias(bias)
    x, y = batch()
    h = torch.tanh(model.first(x))
    z = model.second(h)
    delta_2 = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), z)[0]
    delta_1 = (delta_2 @ model.second.weight) * (1 - h**2)
    expected = [
        1 / (2 * ((features.square().sum(1).mean() + bias) * delta.square().sum(1).mean()).sqrt())
        for features, delta in ((x, delta_1), (h, delta_2))
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaling = DepthwiseScaling(model, optimizer)
    backward(model, x, y)
    raw = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    torch.testing.assert_close(scaling.scales, torch.stack(expected).detach())
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, scaling.scales[int(name.startswith("second"))] * raw[name])


def shared_weight():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "model: trainable parameter 1.weight is not in"),
        (nn.ReLU(), "model: no trainable nn.Linear layer"),
        (nn.Conv1d(2, 2, 1), "model: trainable parameter weight is not in an nn.Linear layer"),
        (shared_weight(), "model: layer 1 shares a weight with another layer"),
    ],
)
def test_models_that_cannot_be_scaled_are_refused_with_a_reason(model, message):
    with pytest.raises(UserError) as error:
        DepthwiseScaling(model)
    assert message in str(error.value)


def test_layers_that_run_out_of_order_are_refused():
    model = nn.ModuleDict({"b": nn.Linear(3, 3), "a": nn.Linear(3, 3)})
    DepthwiseScaling(model)
    with pytest.raises(UserError, match="layer a ran where b was expected"):
        model["b"](model["a"](torch.zeros(1, 3)))


def test_a_layer_that_took_no_part_is_named():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    DepthwiseScaling(model, optimizer)
    model["a"](torch.zeros(1, 3)).sum().backward()
    with pytest.raises(UserError, match="layer b took no part"):
        optimizer.step()


def test_frozen_layers_take_no_part_in_the_depth():
    model = WithBias(bias=False)
    model.first.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    scaling = DepthwiseScaling(model, optimizer)
    backward(model, *batch())
    optimizer.step()
    assert scaling.scales.shape == (1,)


def test_activations_may_overwrite_a_layers_output():
    scales = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=inplace), nn.Linear(8, 3)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaling = DepthwiseScaling(model, optimizer)
        backward(model, *batch())
        optimizer.step()
        scales.append(scaling.scales)
    assert torch.equal(*scales)


def test_a_network_may_get_its_device_and_weights_after_the_optimizer():
    """As accelerator.prepare and meta-device initialisation do."""
    model = network(device="meta")
    scaling = DepthwiseScaling(model)
    model.to_empty(device="cpu").reset_parameters()
    scaling.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.1))
    x, y = batch()
    expected = expected_scales("norm", network(), x, y)
    backward(model, x, y)
    optimizer.step()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


def test_copies_and_keyword_calls_and_single_layers_do_no_harm():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaling = DepthwiseScaling(model, optimizer)
    x, y = batch()
    expected = expected_scales("norm", model, x, y)
    backward(copy.deepcopy(model), *batch(seed=1))
    with torch.no_grad():
        model.layers[2](torch.ones(1, model.widths[2], dtype=torch.float64))
    h = model.apply_activation(model.layers[0](h=x))
    for layer in model.layers[1:3]:
        h = model.apply_activation(layer(h=h))
    F.cross_entropy(model.layers[3](h), y).backward()
    optimizer.step()
    torch.testing.assert_close(scaling.scales, expected, rtol=1e-12, atol=0)


def test_functional_transforms_of_a_hooked_network_work_and_are_not_measured():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x, y = batch()
    before = sharpness(model, x, y, loss="cross_entropy").values
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaling = DepthwiseScaling(model, optimizer)
    backward(model, x, y)
    torch.testing.assert_close(sharpness(model, x, y, loss="cross_entropy").values, before)
    optimizer.step()
    torch.manual_seed(0)
    twin = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    expected = ScaledSGD(twin, 0.1)
    backward(twin, x, y)
    expected.step()
    torch.testing.assert_close(scaling.scales, expected.scales, rtol=1e-12, atol=0)


def test_an_abandoned_step_does_not_reduce_the_next_one_early():
    model = network()
    optimizer = ScaledSGD(model, 0.1)
    optimizer.scaling.overlap = True
    optimizer.zero_grad()
    assert not optimizer.scaling.overlap


def test_huge_and_tiny_gradients_keep_their_scales():
    for factor in (1e15, 1e-12):
        model = network(dtype=torch.float32)
        x, y = batch(dtype=torch.float32)
        optimizer = ScaledSGD(model, 0.0)
        (factor * F.cross_entropy(model(x), y)).backward()
        optimizer.step()
        share = [
            xi * w.grad.double().norm() for xi, w in zip(optimizer.scales, model.parameters(), strict=True)
        ]
        limits = [layer.layer_weight / 4 for layer in model.layers]
        assert all(0.1 * limit < length <= 1.001 * limit for length, limit in zip(share, limits, strict=True))


def test_an_optimizer_of_another_model_a_second_group_and_a_foreign_state_are_refused():
    with pytest.raises(UserError, match=r"optimizer: it does not train layer layers\.0"):
        DepthwiseScaling(network(), torch.optim.SGD(network().parameters(), lr=0.1))
    optimizer = ScaledSGD(network(), 0.1)
    with pytest.raises(UserError, match="param_groups: ScaledSGD trains"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(UserError, match="state_dict: it has no 'scaling'"):
        optimizer.load_state_dict(torch.optim.SGD(network().parameters(), lr=0.1).state_dict())


@pytest.mark.parametrize("static", [False, True])
def test_a_resumed_optimizer_goes_on_as_if_it_had_never_stopped(static):
    def steps(model, optimizer, seeds):
        for seed in seeds:
            optimizer.zero_grad()
            backward(model, *batch(seed=seed))
            optimizer.step()

    straight = network()
    reference = ScaledSGD(straight, 0.3, momentum=0.9, static=static)
    steps(straight, reference, range(6))
    first = network()
    optimizer = ScaledSGD(first, 0.3, momentum=0.9, static=static)
    steps(first, optimizer, range(3))
    resumed = network(seed=9)
    resumed.load_state_dict(first.state_dict())
    again = ScaledSGD(resumed, 0.3, momentum=0.9, static=static)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torch.testing.assert_close(again.scales, optimizer.scales, rtol=0, atol=0)
    steps(resumed, again, range(3, 6))
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_another_rule_or_depth_is_refused():
    state = ScaledSGD(network(), 0.1, rule="gain").scaling.state_dict()
    with pytest.raises(UserError, match=r"scaling.rule: 'norm' differs from the saved 'gain'"):
        DepthwiseScaling(network()).load_state_dict(state)
    model = network(depth=2)
    optimizer = ScaledSGD(model, 0.1)
    backward(model, *batch())
    optimizer.step()
    with pytest.raises(UserError, match="its scales do not fit"):
        DepthwiseScaling(network()).load_state_dict(optimizer.scaling.state_dict())


@pytest.mark.parametrize("told", [False, True])
def test_a_grad_scaler_that_the_hook_was_not_told_of_is_warned_of(told):
    model = HomogeneousMLP(5, 3, depth=3, base_width=4, seed=0)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=1.0), torch.amp.GradScaler("cpu")
    DepthwiseScaling(model, optimizer, grad_scaler=scaler if told else None)
    scaler.scale(model(torch.randn(8, 5)).square().mean()).backward()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scaler.step(optimizer)
    assert ["pass grad_scaler=" in str(one.message) for one in caught] == ([] if told else [True])


@pytest.mark.parametrize(("size", "warns"), [(1.0, False), (1.5, False), (10.0, True), (0.1, True)])
def test_inputs_far_from_their_norm_warn_once(size, warns):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    DepthwiseScaling(model, optimizer)
    x, y = batch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(size * x), y).backward()
            optimizer.step()
    assert ["far from √m_0 = 2.45" in str(one.message) for one in caught] == [True] * warns
