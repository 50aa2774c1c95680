"""G, H − G and diagonal blocks of H against dense automatic differentiation."""

import itertools

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import get_loss
from scaled_sgd.diagnostics import (
    Minibatch,
    block_sharpness,
    hessian_trace,
    hessian_vector_product,
    sharpness,
)
from scaled_sgd.diagnostics.algorithms.hutchinson import hutchinson
from scaled_sgd.diagnostics.blocks import layer_shares
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.operators.curvature import Curvature, curvature
from scaled_sgd.diagnostics.operators.outputs import output_blocks, through_outputs
from scaled_sgd.diagnostics.operators.weights import RowVectors
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.diagnostics.trace import gauss_newton_trace
from scaled_sgd.steps.direction import Direction
from tests.diagnostics.strategies import problems, seeds
from tests.examples import examples, pairwise
from tests.oracles import Problem, full_gauss_newton, full_hessian, make_problem, to_flat


def dense(problem: Problem, part: str, xi: Tensor | None = None) -> Tensor:
    H, G = full_hessian(problem, xi), full_gauss_newton(problem, xi)
    return {"hessian": H, "gauss_newton": G, "feature": H - G}[part]


def sizes(problem: Problem) -> list[int]:
    return [p.numel() for p in problem.model.parameters()]


def scales(problem: Problem, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(problem.model.depth, dtype=torch.float64, generator=generator) + 0.1


@pytest.mark.parametrize("part", ["gauss_newton", "feature"])
@given(problem=problems(max_samples=8), seed=seeds())
@examples(12)
@pytest.mark.slow
def test_products_are_those_of_the_dense_parts(part: str, problem: Problem, seed: int) -> None:
    xi, generator = scales(problem, seed), torch.Generator().manual_seed(seed)
    V = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in problem.model.parameters()]
    wanted = dense(problem, part, xi) @ to_flat(V)
    for chunk_size in (None, 3):
        found = hessian_vector_product(
            problem.model,
            problem.x,
            problem.y,
            V,
            loss=problem.loss,
            scales=xi,
            part=part,
            chunk_size=chunk_size,
        )
        torch.testing.assert_close(to_flat(found), wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("part", "loss", "samples"), pairwise(["gauss_newton", "feature"], ["cross_entropy", "mse"], [4, 30])
)
def test_top_eigenvalues_of_the_parts_in_every_space(part: str, loss: str, samples: int) -> None:
    p = make_problem(loss=loss, samples=samples, base_width=5)
    matrix = dense(p, part)
    wanted = torch.linalg.eigvalsh(matrix).flip(0)[:3]
    for space in ("dense", "factor", "auto"):
        found = sharpness(
            p.model, p.x, p.y, loss=loss, part=part, k=3, space=space, tolerance=1e-9, max_iterations=300
        )
        torch.testing.assert_close(found.values, wanted, rtol=1e-8, atol=0)
        v = to_flat(found.expand())
        torch.testing.assert_close(matrix @ v, wanted[0] * v, rtol=0, atol=1e-7 * float(wanted[0]))


@given(problem=problems(max_samples=8))
@examples(12)
def test_the_trace_is_that_of_the_gauss_newton_part(problem: Problem) -> None:
    batch = Minibatch(problem.model, problem.x, problem.y, loss=problem.loss)
    found = gauss_newton_trace(batch, torch.ones(problem.model.depth, dtype=torch.float64)).sum()
    torch.testing.assert_close(found, full_gauss_newton(problem).trace(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_gram_matrices_over_samples_and_outputs_have_the_spectra_of_the_blocks(loss: str) -> None:
    p = make_problem(loss=loss, samples=4, base_width=5, activation=(0.3, 0.8))
    edges = torch.tensor([0, *sizes(p)]).cumsum(0).tolist()
    for block in output_blocks(Minibatch(p.model, p.x, p.y, loss=loss)):
        own = slice(*edges[block.k - 1 : block.k + 1])
        units = torch.eye(block.vectors.size, dtype=torch.float64)
        gram = torch.stack([block.multiply(unit, torch.empty_like(unit)) for unit in units])
        whole = full_hessian(p)[own, own]
        wanted = torch.linalg.eigvalsh(whole)
        shared = min(len(wanted), len(gram))
        values, turned = torch.linalg.eigh(gram)
        torch.testing.assert_close(values.flip(0)[:shared], wanted.flip(0)[:shared], rtol=1e-9, atol=1e-12)
        top = to_flat(block.vectors.expand(turned[:, -1]))
        assert float(top.norm()) == pytest.approx(1)
        torch.testing.assert_close(whole @ top, values[-1] * top, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_block_sharpness_over_outputs_and_over_weights_is_that_of_the_dense_blocks() -> None:
    for samples, outputs, by_outputs in ((2, 1, True), (40, 60, False)):
        p = make_problem(samples=samples, outputs=outputs, base_width=12, loss="mse")
        assert through_outputs(Minibatch(p.model, p.x, p.y, loss="mse"), 10) is by_outputs
        found = block_sharpness(p.model, p.x, p.y, loss="mse", tolerance=1e-9)
        H, edges = full_gauss_newton(p), torch.tensor([0, *sizes(p)]).cumsum(0).tolist()
        wanted = [torch.linalg.eigvalsh(H[a:b, a:b])[-1] for a, b in itertools.pairwise(edges)]
        torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-8, atol=0)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_block_sharpness_of_smooth_networks_is_not_that_of_their_gauss_newton_blocks(activation: str) -> None:
    p = make_problem(samples=2, outputs=1, base_width=12, loss="mse", activation=activation)
    found = block_sharpness(p.model, p.x, p.y, loss="mse", tolerance=1e-9)
    H, G = full_hessian(p), full_gauss_newton(p)
    edges = torch.tensor([0, *sizes(p)]).cumsum(0).tolist()
    of_H, of_G = (
        torch.stack([torch.linalg.eigvalsh(M[a:b, a:b])[-1] for a, b in itertools.pairwise(edges)])
        for M in (H, G)
    )
    torch.testing.assert_close(found, of_H, rtol=1e-8, atol=0)
    assert not torch.allclose(of_H, of_G, rtol=1e-3)


@pytest.mark.parametrize("space", ["dense", "factor"])
def test_blocks_of_some_layers_are_principal_submatrices(space: str) -> None:
    p = make_problem(samples=5, base_width=4)
    edges = torch.tensor([0, *sizes(p)]).cumsum(0).tolist()
    kept = torch.cat([torch.arange(edges[k - 1], edges[k]) for k in (2, 4)])
    operator = curvature(Minibatch(p.model, p.x, p.y, loss=p.loss), space=space, layers=[2, 4])
    v = operator.vectors.random(0)
    V = to_flat(operator.vectors.expand(v))
    found = operator.multiply(operator.vectors.dual(v), torch.empty_like(v))
    wanted = full_hessian(p)[kept][:, kept] @ V
    torch.testing.assert_close(to_flat(operator.vectors.expand(found)), wanted, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("space", ["dense", "factor"])
def test_shares_of_the_top_eigenvector_are_its_squares_by_layer(space: str) -> None:
    p = make_problem(samples=5, base_width=6)
    operator = curvature(Minibatch(p.model, p.x, p.y, loss=p.loss), space=space)
    found = sharpness(p.model, p.x, p.y, loss=p.loss, space=space, tolerance=1e-10)
    u = torch.linalg.eigh(full_hessian(p)).eigenvectors[:, -1]
    wanted = torch.stack([part.square().sum() for part in u.split(sizes(p))])
    torch.testing.assert_close(layer_shares(operator.vectors, found.vectors[0]), wanted, rtol=1e-6, atol=1e-9)


def test_a_run_writes_the_spectra_of_the_parts_and_of_the_blocks() -> None:
    p, k = make_problem(samples=7, base_width=4), 2
    config = DiagnosticsConfig(every=1, k=k, taylor=False, sharpness=False, ranks=False, tolerance=1e-9)
    config.quantities = ["gauss_newton", "blocks"]
    taken = StepTaken(Direction(torch.ones(p.model.depth, dtype=torch.float64)), 0.1)
    observer = Observer(config, p.model, p.x, p.y, loss=p.loss)
    row = observer.measure(Minibatch(p.model, p.x, p.y, loss=p.loss), taken)
    H, G = full_hessian(p), full_gauss_newton(p)
    edges = torch.tensor([0, *sizes(p)]).cumsum(0).tolist()
    of_G, of_rest = (torch.linalg.eigvalsh(M).flip(0)[:k] for M in (G, H - G))
    u = torch.linalg.eigh(H).eigenvectors[:, -1]
    wanted = {
        "gauss_newton_sharpness": of_G[0],
        "gauss_newton_eigenvalues": of_G,
        "feature_sharpness": of_rest[0],
        "feature_eigenvalues": of_rest,
        "gauss_newton_trace": G.trace(),
        "gauss_newton_share": of_G.sum() / G.trace(),
        "block_sharpness": [torch.linalg.eigvalsh(H[a:b, a:b])[-1] for a, b in itertools.pairwise(edges)],
        "top_vector_shares": [part.square().sum() for part in u.split(sizes(p))],
    }
    assert wanted.keys() <= row.keys()
    for name, value in wanted.items():
        found = torch.tensor(row[name], dtype=torch.float64)
        torch.testing.assert_close(found, torch.as_tensor(value), rtol=1e-6, atol=1e-9, msg=name)


def test_the_trace_estimator_takes_any_operator() -> None:
    p = make_problem(samples=5)
    vectors = RowVectors(Minibatch(p.model, p.x, p.y, loss=p.loss), space="dense")
    operator = Curvature(vectors, "hessian", [1.0] * p.model.depth)
    mean, error = hutchinson(operator, vectors.gaussian, probes=200, seed=0)
    exact = hessian_trace(p.model, p.x, p.y, loss=p.loss).value
    assert abs(float(mean - exact)) < 4 * float(error)


def test_any_module_has_parts_and_blocks_of_parameter_tensors() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.arange(7) % 3
    named = {name: p.detach() for name, p in model.named_parameters()}
    counts = [p.numel() for p in named.values()]

    def outputs(flat: Tensor) -> Tensor:
        parts = zip(named.items(), flat.split(counts), strict=True)
        values = {name: part.view_as(p) for (name, p), part in parts}
        return functional_call(model, values, (x,))

    flat = to_flat(list(named.values()))
    ell = get_loss("cross_entropy")
    H = hessian(lambda v: ell.value(outputs(v), y).mean())(flat)
    J = jacrev(outputs)(flat).flatten(0, 1)
    f = outputs(flat)
    bent = torch.stack([ell.hessian_product(f, column.view_as(f)).flatten() for column in J.T], 1)
    G = J.T @ bent / len(x)
    V = [torch.randn_like(p) for p in named.values()]
    for part, matrix in (("gauss_newton", G), ("feature", H - G)):
        found = hessian_vector_product(model, x, y, V, loss="cross_entropy", part=part)
        torch.testing.assert_close(to_flat(found), matrix @ to_flat(V), rtol=1e-9, atol=1e-12)
    top = sharpness(model, x, y, loss="cross_entropy", part="gauss_newton", tolerance=1e-9)
    torch.testing.assert_close(top.values[0], torch.linalg.eigvalsh(G)[-1])
    edges = torch.tensor([0, *counts]).cumsum(0).tolist()
    wanted = [torch.linalg.eigvalsh(H[a:b, a:b])[-1] for a, b in itertools.pairwise(edges)]
    found = block_sharpness(model, x, y, loss="cross_entropy", tolerance=1e-9)
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-7, atol=1e-12)


def test_an_unknown_part_is_refused() -> None:
    p = make_problem()
    for run in (sharpness, hessian_vector_product):
        more = ([*p.model.parameters()],) if run is hessian_vector_product else ()
        with pytest.raises(
            UserError, match=r"^part: 'all' is unknown; allowed: hessian, gauss_newton, feature"
        ):
            run(p.model, p.x, p.y, *more, loss=p.loss, part="all")
