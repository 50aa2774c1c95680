"""Factorised layers W = U Vᵀ: which are, how they start, and what their network computes."""

import pytest
import torch
from torch import Tensor

from scaled_sgd import HomogeneousMLP
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.factored import Factored
from scaled_sgd.core.start import outputs_at_start, rows_at_start
from tests.core.test_network import inputs

PARAMETERIZATIONS = ("nup", "ntp", "sp", "mup")


def network(**options) -> HomogeneousMLP:
    """Widths 6, 8, 16, 24, 3."""
    known = {"depth": 4, "base_width": 8, "width_exponent": 1.0, "seed": 5, "dtype": torch.float64}
    return HomogeneousMLP(6, 3, **known | options)


def effective(model: HomogeneousMLP, k: int) -> Tensor:
    """α_k W_k."""
    layer = model.scaled_layers[k - 1]
    return layer.multiplier * layer.weight.detach()


@pytest.mark.parametrize(
    ("rank", "widths", "places"),
    [
        (None, (6, 8, 16, 24, 3), {}),
        (2, (6, 2, 8, 2, 16, 2, 24, 3), {1: 1, 3: 2, 5: 3}),
        (8, (6, 8, 8, 16, 8, 24, 3), {2: 2, 4: 3}),
        (16, (6, 8, 16, 16, 24, 3), {3: 3}),
    ],
)
def test_layers_but_the_last_with_room_for_the_rank_become_two(rank, widths, places):
    found = Factored((6, 8, 16, 24, 3), rank)
    assert (found.widths, found.pairs) == (widths, places)
    layers = [found.ordinary_layer(k) for k in range(1, len(widths))]
    assert layers == sorted(layers)
    assert set(layers) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"rank": 17}, "rank: 17 is above the smaller width of every layer; allowed: 1 to 16"),
        ({"rank": 0}, "rank: 0 is"),
        ({"rank": 1, "depth": 1}, "allowed: null, since the last layer is never factorised"),
        ({"rank": 2, "factor_start": "svd"}, "factor_start: 'svd' is unknown; allowed: spectral, drawn"),
    ],
)
def test_a_rank_without_room_is_refused(options, line):
    with pytest.raises(UserError, match=line):
        network(**options)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_spectral_factors_are_the_best_approximation_of_the_layer_without_rank(parameterization, activation):
    options = {"parameterization": parameterization, "activation": activation}
    whole, factored = network(**options), network(rank=5, **options)
    for k, j in factored.factored.pairs.items():
        U, S, Vh = torch.linalg.svd(effective(whole, j), full_matrices=False)
        first, second = effective(factored, k), effective(factored, k + 1)
        torch.testing.assert_close(second @ first, U[:, :5] * S[:5] @ Vh[:5], rtol=0, atol=2e-6 * float(S[0]))
        # Both factors have √Σ.
        for gram in (first @ first.T, second.T @ second):
            torch.testing.assert_close(gram, S[:5].diag(), rtol=0, atol=2e-6 * float(S[0]))
    torch.testing.assert_close(effective(factored, 7), effective(whole, 4), rtol=0, atol=0)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_at_full_rank_the_network_starts_as_the_one_without(parameterization, activation):
    options = {"parameterization": parameterization, "activation": activation, "width_exponent": 0.0}
    whole, factored = network(**options), network(rank=8, **options)
    assert factored.widths == (6, 8, 8, 8, 8, 8, 3)
    torch.testing.assert_close(factored(inputs(5)), whole(inputs(5)), rtol=1e-5, atol=1e-6)


def test_drawn_factors_are_independent_and_have_the_deviation_of_their_widths():
    model = HomogeneousMLP(
        400, 3, depth=3, base_width=400, width_exponent=0, rank=100, factor_start="drawn", seed=1,
        parameterization="sp",
    )  # fmt: skip
    first, second, third, fourth, _ = (layer.weight.detach() for layer in model.scaled_layers)
    for W in (first, second, third, fourth):
        assert float(W.std()) == pytest.approx(W.shape[1] ** -0.5, rel=0.02)
    for W, V in ((first, second.T), (first, third), (second, fourth), (third, fourth.T)):
        correlation = torch.corrcoef(torch.stack([W.flatten(), V.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.03


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_rows_of_factors_at_the_start_are_contiguous_and_the_callers_own(k):
    model = network(rank=5)
    rows = rows_at_start(model, k, 0, 3)
    assert rows.is_contiguous()
    wanted = rows.clone()
    rows.zero_()
    assert torch.equal(rows_at_start(model, k, 0, 3), wanted)


@pytest.mark.parametrize("factor_start", ["spectral", "drawn"])
def test_outputs_at_the_start_are_drawn_again(factor_start):
    model = network(rank=5, factor_start=factor_start)
    wanted = model(inputs(5)).detach()
    with torch.no_grad():
        for W in model.parameters():
            W.mul_(3)
    torch.testing.assert_close(outputs_at_start(model, inputs(5)), wanted)


def test_recomputed_activations_do_not_change_a_factorised_network():
    model = network(rank=5)
    wanted = model(inputs(5))
    model.activation_checkpointing = True
    torch.testing.assert_close(model(inputs(5)), wanted, rtol=0, atol=0)


def test_a_stored_network_keeps_its_factors(tmp_path):
    model = network(rank=5, factor_start="drawn")
    model.save_pretrained(tmp_path / "model")
    found = HomogeneousMLP.from_pretrained(tmp_path / "model")
    assert (found.widths, found.factored, found.factor_start) == (model.widths, model.factored, "drawn")
    assert torch.equal(found(inputs(4)), model(inputs(4)))
