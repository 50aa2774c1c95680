"""Taylor terms and norms along any direction, against automatic differentiation in float64."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad

from scaled_sgd import ScaledSGD
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import get_loss
from scaled_sgd.diagnostics import Minibatch, taylor_coefficients
from scaled_sgd.diagnostics.directions import direction_norms
from scaled_sgd.steps.direction import Direction
from tests.diagnostics.strategies import problems, seeds
from tests.examples import examples
from tests.oracles import Problem, make_problem, mean_loss, parameters, signals


def updates(problem: Problem, direction: Direction) -> list[Tensor]:
    """U_k = (α_k/n) δ_kᵀ K_k h_{k−1}, formed."""
    h, delta = signals(problem)
    found = []
    for i, layer in enumerate(problem.model.scaled_layers):
        K = direction.matrix(i)
        K = torch.eye(len(problem.x), dtype=torch.float64) if K is None else K
        found.append(direction.numbers[i] * layer.multiplier / len(problem.x) * delta[i].T @ K @ h[i])
    return found


def series(problem: Problem, u: list[Tensor]) -> list[Tensor]:
    values = parameters(problem.model)

    def along(eta: Tensor) -> Tensor:
        moved = {name: p + eta * step for (name, p), step in zip(values.items(), u, strict=True)}
        return mean_loss(problem, moved)

    first, zero = grad(along), torch.zeros((), dtype=torch.float64)
    return [along(zero), first(zero), grad(first)(zero) / 2, grad(grad(first))(zero) / 6]


def random_direction(problem: Problem, seed: int, *, some_scalar: bool = False) -> Direction:
    generator = torch.Generator().manual_seed(seed)
    n, depth = len(problem.x), problem.model.depth
    matrices = [torch.randn(n, n, generator=generator, dtype=torch.float64) for _ in range(depth)]
    numbers = torch.rand(depth, generator=generator, dtype=torch.float64) + 0.1
    return Direction(numbers, [None if some_scalar and k % 2 else K for k, K in enumerate(matrices)])


def random_tensors(problem: Problem, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in problem.model.parameters()
    ]


def assert_series(problem: Problem, u: list[Tensor], **options: object) -> None:
    t = taylor_coefficients(problem.model, problem.x, problem.y, loss=problem.loss, **options)
    wanted = series(problem, u)
    scale = max(float(c.abs()) for c in wanted)
    for found, reference in zip((t.c0, t.c1, t.c2, t.c3), wanted, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-12, atol=1e-12 * scale)


@given(problem=problems(), seed=seeds(), some_scalar=st.booleans())
@examples(10)
def test_matrices_give_the_terms_of_automatic_differentiation(
    problem: Problem, seed: int, some_scalar: bool
) -> None:
    direction = random_direction(problem, seed, some_scalar=some_scalar)
    u = [-U for U in updates(problem, direction)]
    assert_series(problem, u, direction=direction)


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("samples", [4, 20])
@pytest.mark.parametrize("rule", ["unit", "spectral"])
def test_rules_of_gradients_give_the_terms_along_their_own_step(
    rule: str, samples: int, chunk_size: int | None
) -> None:
    problem = make_problem(samples=samples, base_width=4, parameterization="nup")
    twin = copy.deepcopy(problem.model)
    optimizer = ScaledSGD(twin, 1.0, rule=rule)
    get_loss(problem.loss).value(twin(problem.x), problem.y).mean().backward()
    optimizer.step()
    moved = zip(twin.parameters(), problem.model.parameters(), strict=True)
    u = [(W - V).detach() for W, V in moved]
    assert_series(problem, u, scales=rule, chunk_size=chunk_size)


@given(problem=problems(), seed=seeds(), chunk_size=st.sampled_from([None, 3]))
@examples(10)
def test_dense_tensors_give_the_terms_of_automatic_differentiation(
    problem: Problem, seed: int, chunk_size: int | None
) -> None:
    u = random_tensors(problem, seed)
    assert_series(problem, u, direction=u, chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_numbers_are_scales(chunk_size: int | None) -> None:
    p = make_problem()
    xi = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
    by_scales, by_direction = (
        taylor_coefficients(p.model, p.x, p.y, loss=p.loss, chunk_size=chunk_size, **options)
        for options in ({"scales": xi}, {"direction": Direction(xi)})
    )
    for name in ("c0", "c1", "c2", "c3", "scales"):
        assert torch.equal(getattr(by_scales, name), getattr(by_direction, name))


@given(problem=problems(), seed=seeds(), some_scalar=st.booleans())
@examples(10)
def test_norms_are_those_of_the_updates_that_are_not_formed(
    problem: Problem, seed: int, some_scalar: bool
) -> None:
    direction = random_direction(problem, seed, some_scalar=some_scalar)
    wanted = torch.stack([U.norm() for U in updates(problem, direction)])
    found = direction_norms(Minibatch(problem.model, problem.x, problem.y, loss=problem.loss), direction)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9 * float(wanted.max()))


def test_mistakes_name_the_argument() -> None:
    p = make_problem()
    n, ones = len(p.x), torch.ones(4, dtype=torch.float64)
    K = [torch.eye(n)] * 4

    def along(direction: object, **options: object) -> object:
        return taylor_coefficients(p.model, p.x, p.y, loss=p.loss, direction=direction, **options)

    for wrong, options, says in (
        (Direction(ones[:3]), {}, r"^direction: numbers of shape \(3,\) do not fit; allowed: \(4,\)$"),
        (Direction(ones * torch.nan), {}, "^direction: not all numbers are finite"),
        (Direction(ones, [torch.eye(n - 1)] * 4), {}, "^direction: matrices of shapes"),
        (Direction(ones, K[:3]), {}, "^direction: matrices of shapes"),
        (Direction(ones, None, K), {}, "^direction: dense of shapes"),
        (
            Direction(ones, K),
            {"chunk_size": 2},
            "^direction: matrices belong to all 6 samples, not",
        ),
        (Direction(ones), {"scales": "norm"}, "^direction: scales are given too"),
        (1.0, {}, "^direction: float does not fit"),
        ([ones], {}, "^direction: 1 tensors; allowed: 4"),
        ([ones] * 4, {}, "^direction: layer 1 has shape"),
    ):
        with pytest.raises(UserError, match=says):
            along(wrong, **options)
