import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics import HessianSpace, Minibatch, hessian_vector_product
from tests.diagnostics.strategies import problems, seeds
from tests.examples import examples
from tests.oracles import Problem, full_hessian, gradients, make_problem, to_flat


def random_vectors(problem: Problem, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in problem.model.parameters()
    ]


def product(problem: Problem, vectors: list[Tensor], **options: object) -> Tensor:
    return to_flat(
        hessian_vector_product(problem.model, problem.x, problem.y, vectors, loss=problem.loss, **options)
    )


@given(problem=problems(), seed=seeds())
@examples(20)
def test_product_is_that_of_the_full_hessian(problem: Problem, seed: int) -> None:
    V = random_vectors(problem, seed)
    torch.testing.assert_close(product(problem, V), full_hessian(problem) @ to_flat(V), rtol=1e-9, atol=1e-11)


@given(problem=problems(), seed=seeds())
@examples(8)
def test_scales_precondition_from_both_sides(problem: Problem, seed: int) -> None:
    xi = torch.rand(problem.model.depth, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    V = random_vectors(problem, seed)
    wanted = full_hessian(problem, xi) @ to_flat(V)
    torch.testing.assert_close(product(problem, V, scales=xi), wanted, rtol=1e-9, atol=1e-11)


@given(problem=problems(max_samples=9), seed=seeds(), chunk_size=st.integers(1, 9))
@examples(8)
def test_chunks_do_not_change_the_product(problem: Problem, seed: int, chunk_size: int) -> None:
    V = random_vectors(problem, seed)
    torch.testing.assert_close(
        product(problem, V, chunk_size=chunk_size), product(problem, V), rtol=1e-9, atol=1e-11
    )


@given(problem=problems(), seed=seeds())
@examples(8)
def test_the_product_is_symmetric_and_blind_to_the_order_of_samples(problem: Problem, seed: int) -> None:
    V, W = random_vectors(problem, seed), random_vectors(problem, seed + 1)
    HV, HW = product(problem, V), product(problem, W)
    torch.testing.assert_close(to_flat(W) @ HV, to_flat(V) @ HW, rtol=1e-9, atol=1e-10)
    order = torch.randperm(len(problem.x), generator=torch.Generator().manual_seed(seed))
    shuffled = Problem(problem.model, problem.x[order], problem.y[order], problem.loss)
    torch.testing.assert_close(product(shuffled, V), HV, rtol=1e-9, atol=1e-11)


@given(problem=problems(), seed=seeds())
@examples(10)
def test_factors_carry_inner_products_and_products_exactly(problem: Problem, seed: int) -> None:
    batch = Minibatch(problem.model, problem.x, problem.y, loss=problem.loss)
    xi = torch.rand(problem.model.depth, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    factor = HessianSpace(batch, xi, space="factor")
    v, w = factor.random(seed), factor.random(seed + 1)
    V, W = to_flat(factor.expand(v)), to_flat(factor.expand(w))
    scale = float(V.norm() * W.norm())
    torch.testing.assert_close(v @ factor.dual(w), V @ W, rtol=1e-9, atol=1e-12 * scale)
    torch.testing.assert_close(V, HessianSpace(batch, xi, space="dense").random(seed))
    Hv = to_flat(factor.expand(factor.multiply(factor.dual(v), torch.empty_like(v))))
    torch.testing.assert_close(
        Hv, full_hessian(problem, xi) @ V, rtol=1e-8, atol=1e-11 * (1 + float(V.norm()))
    )


def test_auto_keeps_small_layers_dense_and_factors_large_ones() -> None:
    problem = make_problem(samples=4, inputs=40, base_width=20)
    batch = Minibatch(problem.model, problem.x, problem.y, loss=problem.loss)
    auto = HessianSpace(batch)
    assert [type(block).__name__ for block in auto.blocks] == ["FactorBlock"] * 3 + ["DenseBlock"]
    assert auto.size < HessianSpace(batch, space="dense").size


def test_second_derivative_along_the_gradient_matches_a_difference_of_gradients() -> None:
    problem = make_problem(activation=(0.95, 0.2), loss="mse")
    G, eta = gradients(problem), 1e-6
    HG = product(problem, G)
    with torch.no_grad():
        for p, step in zip(problem.model.parameters(), G, strict=True):
            p += eta * step
    difference = (to_flat(gradients(problem)) - to_flat(G)) / eta
    torch.testing.assert_close(HG, difference, rtol=1e-4, atol=1e-5 * float(HG.norm()))


def test_mistakes_name_the_argument() -> None:
    p = make_problem()
    V = random_vectors(p, 0)
    with pytest.raises(UserError, match=r"^vectors: 3 tensors"):
        product(p, V[:3])
    with pytest.raises(UserError, match=r"^vectors: layer 2 has shape"):
        product(p, [V[0], V[0], *V[2:]])
    batch = Minibatch(p.model, p.x, p.y, loss=p.loss, chunk_size=2)
    with pytest.raises(UserError, match=r"^space: 'factor'"):
        HessianSpace(batch, space="factor")
    with pytest.raises(UserError, match=r"^space: 'sparse'"):
        HessianSpace(batch, space="sparse")
