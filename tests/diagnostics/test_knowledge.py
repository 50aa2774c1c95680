"""Knowledge gain, against matrices whose low-rank part is known."""

import numpy as np
import pytest
import torch

from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.knowledge import knowledge, low_rank
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.steps.direction import Direction
from tests.oracles import make_problem

DRAW = np.random.default_rng(2)


def spiked(shape, spikes, noise=1.0):
    """Noise with orthogonal terms of these singular values."""
    left, right = (np.linalg.qr(DRAW.normal(size=(m, max(len(spikes), 1))))[0] for m in shape)
    return noise * DRAW.normal(size=shape) + (left[:, : len(spikes)] * spikes) @ right[:, : len(spikes)].T


@pytest.mark.parametrize("shape", [(60, 150), (150, 60), (80, 80)])
def test_noise_knows_nothing_and_what_stands_out_of_it_is_found(shape):
    values = np.linalg.svd(spiked(shape, []), compute_uv=False)
    assert knowledge(values, shape).gain == 0
    assert knowledge(values, shape).condition is None
    spikes = np.array([200.0, 100.0, 50.0])
    found = low_rank(np.linalg.svd(spiked(shape, spikes), compute_uv=False), shape)
    np.testing.assert_allclose(found, spikes, rtol=0.1)
    one = knowledge(np.linalg.svd(spiked(shape, spikes), compute_uv=False), shape)
    assert one.rank == 3 / min(shape)
    assert one.gain == pytest.approx(1.75 / min(shape), rel=0.1)
    assert one.condition == pytest.approx(4, rel=0.2)


def test_the_variance_is_that_of_a_scalar_search():
    from scipy.optimize import minimize_scalar

    shape, L, M = (40, 100), 40, 100
    s = np.linalg.svd(spiked(shape, [60.0, 30.0], noise=0.7), compute_uv=False)
    a = L / M
    tau = 2.5129 * a**0.5
    edge = (1 + tau) * (1 + a / tau)

    def energy(sigma):
        x = s**2 / (M * sigma)
        z = x[x > edge]
        t = 0.5 * (z - 1 - a + np.sqrt((z - 1 - a) ** 2 - 4 * a))
        rest = x[x <= edge]
        return (rest - np.log(rest)).sum() + (z - t + np.log((t + 1) / z) + a * np.log(t / a + 1)).sum()

    sigma = minimize_scalar(energy, bounds=(0.3, 0.9), method="bounded", options={"xatol": 1e-10}).x
    top = s[s**2 > M * sigma * edge]
    share = (L + M) * sigma / top**2
    wanted = top / 2 * (1 - share + np.sqrt((1 - share) ** 2 - 4 * L * M * sigma**2 / top**4))
    np.testing.assert_allclose(low_rank(s, shape), wanted, rtol=1e-4)


def test_values_that_are_not_finite_or_all_zero_give_nothing():
    for values in (np.zeros(3), np.array([1.0, np.nan, 2.0])):
        assert knowledge(values, (3, 5)).gain == 0


def test_the_diagnostic_is_of_the_weights():
    p = make_problem(base_width=20, width_exponent=0, inputs=30, outputs=5, depth=3)
    with torch.no_grad():
        p.model.layers[1].weight += 60 * torch.outer(torch.ones(20), torch.ones(20)).double() / 20
    config = DiagnosticsConfig(every=1, taylor=False, sharpness=False, ranks=False, quantities=["knowledge"])
    observer = Observer(config, p.model, p.x, p.y, loss=p.loss)
    taken = StepTaken(Direction(torch.ones(3, dtype=torch.float64)), 0.1)
    row = observer.measure(Minibatch(p.model, p.x, p.y, loss=p.loss), taken)
    for k, W in enumerate(p.model.parameters()):
        wanted = knowledge(np.linalg.svd(W.detach().numpy(), compute_uv=False), tuple(W.shape))
        assert row["knowledge_gain"][k] == pytest.approx(wanted.gain, rel=1e-6)
        assert row["low_rank"][k] == wanted.rank
    assert row["low_rank"][1] > 0
