import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics import Minibatch, hessian_vector_product, taylor_coefficients
from scaled_sgd.diagnostics.directions import Factors, updates_along
from scaled_sgd.diagnostics.jets import output_jets
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.signals import run_signals
from tests.diagnostics.strategies import problems, seeds
from tests.examples import examples
from tests.oracles import Problem, gradients, make_problem, mean_loss, parameters, taylor_series


def random_scales(depth: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(depth, generator=generator, dtype=torch.float64) + 0.1


def assert_equal_series(problem: Problem, found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for value, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-12)


@given(problem=problems(), seed=seeds())
@examples(20)
def test_coefficients_are_those_of_automatic_differentiation(problem: Problem, seed: int) -> None:
    xi = random_scales(problem.model.depth, seed)
    t = taylor_coefficients(problem.model, problem.x, problem.y, loss=problem.loss, scales=xi)
    assert t.c2 is not None
    assert t.c3 is not None
    assert_equal_series(problem, [t.c0, t.c1, t.c2, t.c3], taylor_series(problem, xi))


@given(problem=problems(max_samples=9), seed=seeds(), chunk_size=st.integers(1, 9))
@examples(10)
def test_chunks_do_not_change_coefficients(problem: Problem, seed: int, chunk_size: int) -> None:
    xi = random_scales(problem.model.depth, seed)
    whole, parts = (
        taylor_coefficients(problem.model, problem.x, problem.y, loss=problem.loss, scales=xi, chunk_size=c)
        for c in (None, chunk_size)
    )
    for name in ("c0", "c1", "c2", "c3", "gauss_newton", "feature"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_factors_and_whole_updates_give_the_same_jets(loss: str) -> None:
    problem = make_problem(loss=loss, samples=4, activation=(0.3, 0.8), base_width=6)
    batch = Minibatch(problem.model, problem.x, problem.y, loss=loss)
    xi, s = random_scales(4, 1), batch.first
    alpha = batch.partition.multiplier
    scale = [-xi[k] * alpha(k + 1) ** 2 / s.total for k in range(s.depth)]
    factors = {k: Factors(scale[k - 1], s.delta[k], s.h[k - 1]) for k in range(1, s.depth + 1)}
    first, first_top = output_jets(s, lambda k: factors[k].rows, order=3)
    second, second_top = output_jets(s, factors.__getitem__, order=3)
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first_top, second_top)


def test_small_layers_form_their_update_and_large_ones_do_not() -> None:
    problem = make_problem(samples=4, inputs=40, base_width=20)
    batch = Minibatch(problem.model, problem.x, problem.y, loss=problem.loss)
    s = run_signals(batch.partition, batch.x, batch.y, loss=batch.loss, total=4)
    update = updates_along(s, Direction(torch.ones(4, dtype=torch.float64)))
    assert [isinstance(update(k), Factors) for k in (1, 2, 3, 4)] == [True, True, True, False]


@given(problem=problems())
@examples(8)
def test_c1_is_minus_the_scaled_square_norm_and_c2_half_the_quadratic_form(problem: Problem) -> None:
    xi = random_scales(problem.model.depth, 3)
    t = taylor_coefficients(problem.model, problem.x, problem.y, loss=problem.loss, scales=xi, order=2)
    G = gradients(problem)
    u = [-s * g for s, g in zip(xi, G, strict=True)]
    Hu = hessian_vector_product(problem.model, problem.x, problem.y, u, loss=problem.loss)
    assert t.c2 is not None
    assert t.c3 is None
    torch.testing.assert_close(
        t.c1, -sum((s * g.square().sum() for s, g in zip(xi, G, strict=True)), xi.new_zeros(()))
    )
    quadratic = sum(((a * b).sum() for a, b in zip(u, Hu, strict=True)), xi.new_zeros(()))
    torch.testing.assert_close(t.c2, 0.5 * quadratic, rtol=1e-9, atol=1e-12)
    if float(t.c1) != 0:
        torch.testing.assert_close(t.directional_sharpness, quadratic / t.c1.abs(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("rule", ["none", "norm", "gain", "kernel"])
def test_predicted_loss_errs_by_fourth_order_along_the_step(loss: str, rule: str) -> None:
    problem = make_problem(loss=loss, activation=(0.95, 0.2), samples=9)
    t = taylor_coefficients(problem.model, problem.x, problem.y, loss=loss, scales=rule)
    u = [-s * G for s, G in zip(t.scales, gradients(problem), strict=True)]
    values = parameters(problem.model)
    unit = 1e-2 / max(float(step.norm()) for step in u)
    errors = []
    for eta in (unit, unit / 2):
        moved = {name: p + eta * step for (name, p), step in zip(values.items(), u, strict=True)}
        errors.append(abs(float(t.predicted_loss(eta) - mean_loss(problem, moved))))
    assert errors[0] < 1e-7
    assert errors[1] < errors[0] / 10 or errors[0] < 1e-13


def test_lower_orders_agree_and_know_less() -> None:
    problem = make_problem()
    one, two, three = (
        taylor_coefficients(problem.model, problem.x, problem.y, loss=problem.loss, order=order)
        for order in (1, 2, 3)
    )
    torch.testing.assert_close(one.c1, three.c1)
    torch.testing.assert_close(two.c2, three.c2)
    assert one.c2 is None
    with pytest.raises(UserError, match="order"):
        _ = one.directional_sharpness
    torch.testing.assert_close(one.predicted_loss(0.1), one.c0 + 0.1 * one.c1)


def test_bfloat16_weights_are_computed_in_float32() -> None:
    problem = make_problem(dtype=torch.bfloat16)
    t = taylor_coefficients(problem.model, problem.x, problem.y, loss=problem.loss)
    assert t.c0.dtype == torch.float32


def test_mistakes_name_the_argument() -> None:
    p = make_problem()
    cases = {
        "order": {"order": 4},
        "scales": {"scales": torch.ones(3)},
        "rule": {"scales": "best"},
        "chunk_size": {"chunk_size": 0},
        "loss": {"loss": "hinge"},
    }
    for name, wrong in cases.items():
        with pytest.raises(UserError, match=f"^{name}"):
            taylor_coefficients(p.model, p.x, p.y, **({"loss": p.loss} | wrong))
    with pytest.raises(UserError, match=r"^x:"):
        taylor_coefficients(p.model, p.x[:, :2], p.y, loss=p.loss)
    with pytest.raises(UserError, match=r"^y:"):
        taylor_coefficients(p.model, p.x, p.y[:2], loss=p.loss)
    with pytest.raises(UserError, match=r"^model:"):
        taylor_coefficients(torch.nn.Flatten(), p.x, p.y, loss=p.loss)
