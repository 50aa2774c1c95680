"""``output_scale`` and ``centered``: the network is (f − f_0)/γ."""

import pytest
import torch

from scaled_sgd import HomogeneousMLP
from scaled_sgd.core import start
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.start import outputs_at_start
from tests.core.test_network import inputs, network


@pytest.mark.parametrize("parameterization", ["nup", "ntp", "sp", "mup"])
def test_the_output_scale_divides_the_output_and_changes_no_weight(parameterization):
    plain = network(parameterization=parameterization)
    scaled = network(parameterization=parameterization, output_scale=2.5)
    torch.testing.assert_close(scaled(inputs(4)), plain(inputs(4)) / 2.5)
    for W, V in zip(scaled.parameters(), plain.parameters(), strict=True):
        assert torch.equal(W, V)


@pytest.mark.parametrize("scale", [0, -1, float("inf"), True, "2"])
def test_an_output_scale_is_a_positive_number(scale):
    with pytest.raises(UserError, match=r"output_scale: .* allowed: finite numbers above 0"):
        network(output_scale=scale)


@pytest.mark.parametrize("activation", ["abs", "tanh"])
@pytest.mark.parametrize("held", [1, 7, 1 << 24])
def test_outputs_at_step_0_are_drawn_again_in_pieces_of_any_size(activation, held, monkeypatch):
    monkeypatch.setattr(start, "_HELD", held)
    model = network(activation=activation, output_scale=0.5)
    wanted = model(inputs(5)).detach()
    with torch.no_grad():
        for W in model.parameters():
            W.mul_(3)
    torch.testing.assert_close(outputs_at_start(model, inputs(5)), wanted)


def test_a_centered_network_is_0_at_its_start_and_differs_by_a_constant_from_the_other():
    model, x = network(output_scale=0.5), inputs(6).view(2, 3, 6)
    f_0 = model(x).detach()
    model.centered = True
    torch.testing.assert_close(model(x), torch.zeros(2, 3, 3, dtype=torch.float64), rtol=0, atol=1e-14)
    with torch.no_grad():
        for W in model.parameters():
            W.add_(0.1)
    torch.testing.assert_close(model(x), model.uncentered(x) - f_0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_stored_network_keeps_its_output(dtype, tmp_path):
    model, x = network(output_scale=0.3, dtype=dtype), inputs(4).to(dtype)
    model.centered = True
    with torch.no_grad():
        for W in model.parameters():
            W.add_(0.1)
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(HomogeneousMLP.from_pretrained(tmp_path / "model")(x), model(x))
