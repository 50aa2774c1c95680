"""The gradient of the top eigenvalue, and what is made of it, against automatic differentiation."""

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.func import grad, jvp

from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.core.losses import get_loss
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.operators.third_derivative import eigenvalue_gradient
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.steps.direction import Direction
from tests.diagnostics.strategies import problems, seeds
from tests.oracles import Problem, flat_loss, flat_parameters, full_hessian, gradients, make_problem, to_flat


def third_derivative(p: Problem, u: Tensor) -> Tensor:
    """D³L[u, u, ·]."""

    def curvature(flat: Tensor) -> Tensor:
        def slope(at: Tensor) -> Tensor:
            return jvp(lambda w: flat_loss(p, w), (at,), (u,))[1]

        return jvp(slope, (flat,), (u,))[1]

    return grad(curvature)(flat_parameters(p.model))


@given(problem=problems(max_samples=8), seed=seeds())
def test_it_is_the_third_derivative_twice_along_a_vector(problem: Problem, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    u = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in problem.model.parameters()]
    wanted = third_derivative(problem, to_flat(u))
    for chunk_size in (None, 3):
        batch = Minibatch(problem.model, problem.x, problem.y, loss=problem.loss, chunk_size=chunk_size)
        found = to_flat(eigenvalue_gradient(batch, u))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10 * (1 + float(wanted.abs().max())))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_third_derivatives_of_losses_are_contracted_twice(loss: str) -> None:
    ell, generator = get_loss(loss), torch.Generator().manual_seed(0)
    f, u = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    wanted = jvp(lambda g: ell.hessian_product(g, u), (f,), (u,))[1]
    torch.testing.assert_close(ell.third_product(f, u), wanted, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close((u * wanted).sum(-1), ell.third(f, u), rtol=1e-10, atol=1e-13)


def observer_of(p: Problem) -> Observer:
    config = DiagnosticsConfig(every=1, taylor=False, sharpness=False, ranks=False, tolerance=1e-10)
    config.quantities = ["third_order"]
    return Observer(config, p.model, p.x, p.y, loss=p.loss, say=lambda line: None)


def measure(observer: Observer, p: Problem, lr: float = 0.1) -> dict[str, float]:
    taken = StepTaken(Direction(torch.ones(p.model.depth, dtype=torch.float64)), lr)
    return observer.measure(Minibatch(p.model, p.x, p.y, loss=p.loss), taken)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_sharpening_and_stabilisation_are_those_of_the_dense_top_eigenvalue(activation: str) -> None:
    p = make_problem(samples=7, base_width=4, activation=activation)
    row = measure(observer_of(p), p)
    u = torch.linalg.eigh(full_hessian(p)).eigenvectors[:, -1]
    slope, g = third_derivative(p, u), to_flat(gradients(p))
    across = slope - (u @ slope) * u
    wanted = {
        "progressive_sharpening": -g @ slope,
        "self_stabilization": slope @ slope,
        "progressive_sharpening_across": -g @ across,
        "self_stabilization_across": across @ across,
        "sharpness_change_of_step": -0.1 * g @ slope,
        "swing": (g @ u).abs() / torch.linalg.eigvalsh(full_hessian(p))[-1],
    }
    for name, value in wanted.items():
        assert row[name] == pytest.approx(float(value), rel=1e-6), name
    assert row["sharpness_change"] is None
    assert row["predicted_sharpness_change"] is None


def test_predicted_changes_of_sharpness_are_measured_ones_to_third_order() -> None:
    errors = []
    for lr in (0.2, 0.1):
        p = make_problem(samples=7, base_width=4, activation="tanh", seed=3)
        observer = observer_of(p)
        measure(observer, p)
        first = torch.linalg.eigvalsh(full_hessian(p))[-1]
        with torch.no_grad():
            for weight, G in zip(p.model.parameters(), gradients(p), strict=True):
                weight -= lr * G
        row = measure(observer, p)
        change = float(torch.linalg.eigvalsh(full_hessian(p))[-1] - first)
        assert row["sharpness_change"] == pytest.approx(change, rel=1e-6)
        errors.append(abs(row["predicted_sharpness_change"] - change))
    assert errors[1] < errors[0] / 6


def test_a_resumed_run_predicts_from_its_last_measurement() -> None:
    p = make_problem(samples=7, base_width=4, activation="tanh")
    observer, later = observer_of(p), observer_of(p)
    measure(observer, p)
    later.load_state_dict(observer.state_dict())
    with torch.no_grad():
        p.model.layers[0].weight.mul_(1.1)
    wanted, found = measure(observer, p), measure(later, p)
    assert found["predicted_sharpness_change"] == wanted["predicted_sharpness_change"] is not None
