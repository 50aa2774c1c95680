import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from scaled_sgd import HomogeneousMLP
from scaled_sgd.core.activations import ACTIVATIONS, Activation, NamedActivation
from scaled_sgd.core.smooth import Smooth

FORMULAS = {
    "tanh": lambda s: (s.exp() - (-s).exp()) / (s.exp() + (-s).exp()),
    "gelu": lambda s: 0.5 * s * (1 + torch.erf(s / math.sqrt(2))),
    "softplus": lambda s: (1 + s.exp()).log(),
    "swish": lambda s: s / (1 + (-s).exp()),
}
SMOOTH = [*FORMULAS]


def points():
    return torch.linspace(-6, 6, 241, dtype=torch.float64)


def source(phi, z):
    return phi.value(z) if phi.from_value else z


@pytest.mark.parametrize("name", SMOOTH)
def test_values_and_three_derivatives_are_those_of_the_formula(name):
    phi, s = Activation.of(name), points().requires_grad_()
    wanted = [FORMULAS[name](s)]
    for _ in range(3):
        wanted += torch.autograd.grad(wanted[-1].sum(), s, create_graph=True)
    g = source(phi, s.detach())
    for found, expected in zip([phi.value(s), *phi.derivatives(g)], wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    t = torch.stack([points().cos(), points()])
    torch.testing.assert_close(phi.pulled(t, g), t * wanted[1].detach(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["relu", "abs", "linear", *SMOOTH])
def test_slopes_multiply_stacks_of_signals_in_any_layout(name, dtype):
    phi, generator = Activation.of(name), torch.Generator().manual_seed(0)
    z = torch.randn(6, 8, generator=generator).to(dtype)
    g, slope = source(phi, z), phi.derivatives(source(phi, z.double()))[0]
    wide = torch.randn(2, 6, 16, generator=generator).to(dtype)
    turned = wide[..., :8].transpose(0, 1).contiguous().transpose(0, 1)
    for t in (wide[..., :8].contiguous(), wide[..., ::2], turned, wide[0, :, :8], wide[:, :, :8][None]):
        error = 30 * torch.finfo(dtype).eps
        torch.testing.assert_close(phi.pulled(t, g).double(), t.double() * slope, rtol=error, atol=error)


@pytest.mark.parametrize("name", SMOOTH)
def test_autograd_of_the_value_has_the_same_derivatives(name):
    phi, s = Activation.of(name), torch.linspace(-45, 45, 241, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(phi.value(s).sum(), s)
    torch.testing.assert_close(phi.pulled(torch.ones_like(s), source(phi, s.detach())), slope)


@pytest.mark.parametrize("name", ["relu", "abs", "linear", *SMOOTH])
def test_gaussian_means_obey_steins_identities(name):
    """E[s φ] = E[φ′], and E[s φ′] = E[φ″] where φ′ has no jump; σ² E[φ′²] = 1."""
    phi, s = Activation.of(name), torch.linspace(-12, 12, 200_000, dtype=torch.float64)
    weights = torch.exp(-0.5 * s.square())
    weights /= weights.sum()
    first, second, third = phi.derivatives(source(phi, s))

    def mean(t):
        return float((t * weights).sum())

    assert mean(s * phi.value(s)) == pytest.approx(mean(first), abs=1e-7)
    assert phi.scale**2 * mean(first.square()) == pytest.approx(1, abs=1e-6)
    if phi.curved:
        assert mean(s * first) == pytest.approx(mean(second), abs=1e-12)
        assert mean(s * second) == pytest.approx(mean(third), abs=1e-12)


@pytest.mark.parametrize("name", SMOOTH)
def test_hermite_quadrature_gives_the_same_scale(name):
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    phi, s = Activation.of(name), torch.from_numpy(nodes)
    slope = phi.derivatives(source(phi, s))[0].numpy()
    assert phi.scale == pytest.approx(((slope**2 * weights).sum() / weights.sum()) ** -0.5, rel=1e-9)


@pytest.mark.parametrize("parameterization", ["nup", "ntp", "sp", "mup"])
def test_weights_behind_a_smooth_activation_start_larger_by_sigma(parameterization):
    options = {"depth": 4, "base_width": 3, "seed": 0, "parameterization": parameterization}
    plain, smooth = (HomogeneousMLP(6, 3, activation=name, **options) for name in ("abs", "tanh"))
    sigma = Activation.of("tanh").scale
    assert sigma == pytest.approx(1.4674, abs=1e-4)
    for k, (a, b) in enumerate(zip(plain.parameters(), smooth.parameters(), strict=True), start=1):
        torch.testing.assert_close(b, a * (sigma if k > 1 else 1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SMOOTH)
def test_wide_networks_drift_forward_as_and_backward_as_predicted(name):
    phi = Activation.of(name)
    model = HomogeneousMLP(
        100, 1, depth=5, base_width=1000, width_exponent=0, activation=name, parameterization="ntp", seed=0
    )
    x = torch.randn(20, 100, generator=torch.Generator().manual_seed(0))
    h = x * 10 / x.norm(dim=1, keepdim=True)
    forward, z = [], []
    for layer in model.scaled_layers:
        z.append(layer(h))
        z[-1].retain_grad()
        forward.append(float(z[-1].detach().square().mean()))
        h = phi.value(z[-1])
    z[-1].sum().backward()
    squares = [float(signal.grad.square().sum()) for signal in z]
    drift = phi.drift(4)
    assert drift[0] == (1.0, pytest.approx(1))
    assert forward[:-1] == pytest.approx([q for q, _ in drift], rel=0.1)
    gains = [below / above for below, above in itertools.pairwise(squares)]
    assert gains == pytest.approx([gain for _, gain in drift], rel=0.15)


def test_smooth_networks_are_not_homogeneous_and_tanh_networks_are_odd():
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    for name in SMOOTH:
        model = HomogeneousMLP(6, 3, depth=3, base_width=8, activation=name, seed=0)
        assert not torch.allclose(model(2 * x), 2 * model(x), rtol=1e-2)
        assert torch.allclose(model(-x), -model(x), atol=1e-6) == (name == "tanh")


@pytest.mark.parametrize("name", ["relu", (0.3, 0.8), *SMOOTH])
def test_copies_and_pickles_of_a_network_have_its_activation(name):
    model = HomogeneousMLP(6, 3, depth=2, base_width=3, activation=name, seed=0)
    phi = model.activation
    assert phi.scale > 0
    assert Activation.of(phi.given) == phi
    assert copy.deepcopy(model).activation == phi == pickle.loads(pickle.dumps(model)).activation


def test_a_registered_activation_is_one_by_name():
    phi = Smooth("sine", torch.sin, lambda z: (z.cos(), -z.sin(), -z.cos()))
    ACTIVATIONS.add("sine", NamedActivation("sin s", phi))
    try:
        model = HomogeneousMLP(6, 3, depth=2, base_width=3, activation="sine", seed=0)
    finally:
        ACTIVATIONS.remove("sine")
    assert model.activation is phi
    assert phi.scale == pytest.approx(((1 + math.exp(-2)) / 2) ** -0.5)
    x = torch.ones(1, 6)
    first, last = model.scaled_layers
    torch.testing.assert_close(model(x), last(first(x).sin()))
