import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaled_sgd import HomogeneousMLP
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.start import initial_rows
from tests.examples import examples

ACTIVATIONS = ["relu", "abs", (0.3, -0.8), (1.0, -1.0)]


def network(**changes):
    options = {"depth": 4, "base_width": 3, "seed": 0, "dtype": torch.float64} | changes
    return HomogeneousMLP(6, 3, **options)


networks = st.builds(
    network,
    depth=st.integers(1, 5),
    base_width=st.integers(1, 5),
    width_exponent=st.sampled_from([0.0, 1.0, 2.0]),
    activation=st.sampled_from(ACTIVATIONS),
    parameterization=st.sampled_from(["nup", "ntp", "sp", "mup"]),
    seed=st.integers(0, 100),
)


def inputs(n, width=6, seed=0):
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * (width**0.5 / x.norm(dim=1, keepdim=True))


@examples(12)
@given(networks, st.floats(0.1, 5))
def test_the_network_is_homogeneous_of_degree_l_in_its_weights(model, c):
    x = inputs(4)
    f = model(x)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(c)
    torch.testing.assert_close(model(x), c**model.depth * f, rtol=1e-9, atol=1e-12)


@examples(12)
@given(networks, st.floats(0.1, 5))
def test_the_network_is_homogeneous_of_degree_one_in_its_input(model, c):
    x = inputs(4)
    torch.testing.assert_close(model(c * x), c * model(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_is_a_s_plus_b_abs_s(activation):
    model = network(activation=activation)
    a, b = model.activation.a, model.activation.b
    s = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    phi = model.apply_activation(s)
    torch.testing.assert_close(phi, a * s + b * s.abs())
    (slope,) = torch.autograd.grad(phi.sum(), s)
    torch.testing.assert_close(slope, model.activation_derivative(s))
    off_zero = s != 0
    torch.testing.assert_close(slope[off_zero], (a + b * s.sign())[off_zero])


@pytest.mark.parametrize("parameterization", ["nup", "ntp", "sp", "mup"])
@pytest.mark.parametrize(("activation", "kurtosis"), [("relu", 6.0), ("abs", 3.0)])
def test_preactivations_keep_unit_second_moment_over_twenty_quadratic_layers(
    parameterization, activation, kurtosis
):
    """Theory §1, within sampling error: given h_{k−1}, the entries of z_k are independent Gaussians of
    variance ‖h_{k−1}‖²/m_{k−1}, so their mean square has relative variance 2/m_k; that of φ(z_k) has
    (kurtosis − 1)/m_k. Both ratios are held to 4.5 standard deviations, and their product over all
    layers, the second moment itself, to that of the sum."""
    model = HomogeneousMLP(
        16,
        1,
        depth=21,
        base_width=2,
        activation=activation,
        parameterization=parameterization,
        seed=2,
    )
    h = inputs(1, width=16).float()
    log_moment = log_variance = 0.0
    for layer in model.scaled_layers[:-1]:
        width = layer.out_features
        z = layer(h)
        growth = (z.square().mean() / h.square().mean()).item()
        h = model.apply_activation(z)
        kept = (h.square().mean() / z.square().mean()).item()
        assert abs(growth - 1) < 4.5 * (2 / width) ** 0.5
        if width > 30:
            assert abs(kept - 1) < 4.5 * ((kurtosis - 1) / width) ** 0.5
            log_moment += math.log(growth * kept)
            log_variance += (kurtosis + 1) / width
    assert abs(log_moment) < 4.5 * log_variance**0.5


def test_absolute_value_networks_are_even_functions_and_relu_networks_are_not():
    """Without biases |s| forgets the sign of x at the first layer: no odd target can be fitted."""
    x = inputs(5)
    torch.testing.assert_close(network(activation="abs")(-x), network(activation="abs")(x))
    assert not torch.allclose(network(activation="relu")(-x), network(activation="relu")(x))


def test_weights_depend_on_the_seed_and_the_layer_only():
    first, second, other = network(seed=5), network(seed=5, parameterization="nup"), network(seed=6)
    for a, b, c in zip(first.parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    square = network(width_exponent=0.0)
    assert not torch.equal(square.layers[1].weight, square.layers[2].weight)


def test_single_and_double_precision_networks_hold_the_same_weights():
    single = network(dtype=torch.float32)
    for a, b in zip(network().parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=1e-6, atol=0)


@examples(8)
@given(st.integers(1, 700), st.data())
def test_any_rows_of_a_layer_can_be_drawn_without_the_rest(rows, data):
    """Rows 0–700 of width 1000 span three blocks of generators."""
    start = data.draw(st.integers(0, rows))
    whole = initial_rows(3, 2, 0, 700, 1000, 0.5)
    assert torch.equal(initial_rows(3, 2, start, rows, 1000, 0.5), whole[start:rows])


def test_a_network_on_the_meta_device_gets_its_weights_later():
    model = network(device="meta")
    assert all(weight.is_meta for weight in model.parameters())
    model.to_empty(device="cpu").reset_parameters()
    for a, b in zip(model.parameters(), network().parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_empty_batch_passes_through():
    model = network()
    f = model(torch.empty(0, 6, dtype=torch.float64))
    f.sum().backward()
    assert f.shape == (0, 3)
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_impossible_seeds_are_refused(seed):
    with pytest.raises(UserError, match=r"seed: .* allowed: integers from 0"):
        network(seed=seed)
