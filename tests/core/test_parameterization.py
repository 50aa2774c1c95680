import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaled_sgd.core.activations import Activation
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import PARAMETERIZATIONS, layer_constants, width_pattern


def test_quadratic_widths_grow_with_the_square_of_the_layer():
    assert width_pattern(784, 10, depth=6, base_width=32) == (784, 32, 128, 288, 512, 800, 10)


@pytest.mark.parametrize(("exponent", "hidden"), [(0, (8, 8, 8)), (1, (8, 16, 24)), (0.5, (8, 11, 14))])
def test_the_exponent_sets_the_growth_of_widths(exponent, hidden):
    assert width_pattern(3, 2, depth=4, base_width=8, exponent=exponent) == (3, *hidden, 2)


def test_a_network_of_depth_one_has_no_hidden_layer():
    assert width_pattern(5, 3, depth=1, base_width=7) == (5, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth: 0 is not usable; allowed: integers from 1 to 100000"),
        ({"base_width": -3}, "base_width: -3 is not usable; allowed: integers from 1"),
        ({"depth": 2.0}, "depth: 2.0 is not usable; allowed: integers from 1 to 100000"),
        ({"depth": True}, "depth: True is not usable; allowed: integers from 1 to 100000"),
        ({"exponent": -1}, "width_exponent: -1 is not usable; allowed: finite numbers from 0"),
        ({"exponent": math.inf}, "width_exponent: inf is not usable; allowed: finite numbers from 0"),
        ({"exponent": "2"}, "width_exponent: '2' is not usable; allowed: finite numbers from 0"),
    ],
)
def test_impossible_widths_are_refused(arguments, message):
    with pytest.raises(UserError) as error:
        width_pattern(4, 2, **({"depth": 3, "base_width": 2} | arguments))
    assert str(error.value) == message


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_activations_are_normalised_to_the_edge_of_chaos(a, b):
    if math.hypot(a, b) < 1e-3:
        return
    phi = Activation.of((a, b))
    assert phi.a**2 + phi.b**2 == pytest.approx(1)
    assert phi.a * b == pytest.approx(phi.b * a)


def test_named_activations_have_their_usual_shapes():
    relu, absolute = Activation.of("relu"), Activation.of("abs")
    assert (relu.positive_slope, relu.negative_slope) == (pytest.approx(math.sqrt(2)), 0)
    assert (absolute.positive_slope, absolute.negative_slope) == (1, -1)


@pytest.mark.parametrize("name", ["sine", (0, 0), (1, 2, 3), ("a", "b"), (math.nan, 1), None])
def test_activations_outside_the_family_are_refused(name):
    with pytest.raises(UserError, match="activation"):
        Activation.of(name)


@pytest.mark.parametrize("parameterization", ["nup", "mup"])
def test_a_unit_step_moves_every_layer_alike_under_nup_and_mup(parameterization):
    """α_k ω_k: how far a weight change of norm ω_k moves a preactivation of unit-size features."""
    widths = width_pattern(64, 10, depth=5, base_width=8)
    for k in range(1, 6):
        constants = layer_constants(parameterization, k, widths)
        reach = constants.multiplier * constants.layer_weight
        expected = (widths[k] / widths[k - 1]) ** 0.5 if k < 5 else widths[4] ** -0.5
        assert reach == pytest.approx(expected)


@pytest.mark.parametrize("first", [8, 100])
def test_equal_singular_values_move_every_layer_by_its_share_of_its_norm_under_relative_nup(first):
    widths = width_pattern(64, 10, depth=5, base_width=first)
    for k in range(1, 6):
        constants = layer_constants("nup_relative", k, widths)
        rank, size = min(widths[k - 1 : k + 1]), widths[k] * widths[k - 1]
        assert constants.layer_weight * rank**0.5 == pytest.approx(constants.init_std * size**0.5)
        if first > 64:
            assert constants == layer_constants("nup", k, widths)


def test_the_first_layer_of_normalised_mup_does_not_see_the_input_dimension():
    narrow, wide = (layer_constants("mup_normalized", 1, (m_0, 32, 10)) for m_0 in (4, 784))
    usual = layer_constants("mup", 1, (784, 32, 10))
    assert narrow.multiplier**2 * 4 == pytest.approx(wide.multiplier**2 * 784)
    assert wide.multiplier * wide.init_std == pytest.approx(usual.multiplier * usual.init_std)
    assert wide.multiplier * wide.layer_weight == pytest.approx(usual.multiplier * usual.layer_weight)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS.names)
def test_hidden_preactivations_start_with_unit_variance(parameterization):
    widths = width_pattern(64, 10, depth=4, base_width=8)
    for k in range(1, 4):
        constants = layer_constants(parameterization, k, widths)
        assert (constants.multiplier * constants.init_std) ** 2 * widths[k - 1] == pytest.approx(1)


def test_mup_agrees_with_the_table_that_has_a_learning_rate_per_layer():
    """Table 3 of arXiv 2203.03466 for SGD: with s = √(learning rate), α = s, std = published std / s."""
    widths = (784, 100, 400, 10)
    published = [(784**-0.5, 100), (100**-0.5, 1), (1 / 400, 1 / 400)]
    for k, (std, rate) in enumerate(published, start=1):
        constants = layer_constants("mup", k, widths)
        assert constants.multiplier == pytest.approx(rate**0.5)
        assert constants.init_std == pytest.approx(std / rate**0.5)


def test_an_unknown_parameterization_is_refused():
    with pytest.raises(UserError) as error:
        layer_constants("mfp", 1, (4, 2))
    assert str(error.value) == f"parameterization: 'mfp' is unknown; allowed: {', '.join(PARAMETERIZATIONS)}"
