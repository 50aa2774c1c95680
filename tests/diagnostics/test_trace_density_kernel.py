import pytest
import torch
from hypothesis import given
from torch import nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics import hessian_trace, spectral_density, tangent_kernel, top_eigenvalues
from tests.diagnostics.strategies import problems, seeds
from tests.examples import examples
from tests.oracles import Problem, full_gauss_newton, full_hessian, make_problem, output_jacobian


def random_scales(problem: Problem, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(problem.model.depth, dtype=torch.float64, generator=generator) + 0.1


@given(problem=problems(), seed=seeds())
@examples(12)
def test_trace_is_that_of_the_full_hessian_layer_by_layer(problem: Problem, seed: int) -> None:
    xi = random_scales(problem, seed)
    found = hessian_trace(problem.model, problem.x, problem.y, loss=problem.loss, scales=xi)
    diagonal = full_hessian(problem, xi).diagonal().split([p.numel() for p in problem.model.parameters()])
    torch.testing.assert_close(found.layers, torch.stack([d.sum() for d in diagonal]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.value, found.layers.sum())
    assert float(found.standard_error) == 0


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("foreign", [False, True])
def test_trace_and_density_of_both_parts_are_those_of_dense_matrices(activation: str, foreign: bool) -> None:
    p = make_problem(activation=activation, samples=4, base_width=2)
    G, model = full_gauss_newton(p), nn.Sequential(p.model) if foreign else p.model
    for part, C in (("gauss_newton", G), ("feature", full_hessian(p) - G)):
        trace = hessian_trace(model, p.x, p.y, loss=p.loss, part=part, probes=40)
        away = float((trace.value - C.trace()).abs())
        assert away <= (4 * float(trace.standard_error) if foreign else 1e-12)
        found = spectral_density(model, p.x, p.y, loss=p.loss, part=part, steps=len(C), probes=1)
        top = torch.linalg.eigvalsh(C)[-1]
        torch.testing.assert_close(found.nodes.nan_to_num().max(), top, rtol=1e-8, atol=1e-10)


def test_wide_layers_of_a_smooth_network_have_an_unbiased_estimate_of_their_trace() -> None:
    """The mean over seeds is within four of its own standard errors, which are those that are stated."""
    p = make_problem(activation="tanh", samples=3, loss="mse", base_width=7)
    truth = full_hessian(p).trace()
    found = [hessian_trace(p.model, p.x, p.y, loss=p.loss, probes=6, seed=seed) for seed in range(60)]
    values = torch.stack([trace.value for trace in found])
    error = values.std() / 60**0.5
    stated = torch.stack([trace.standard_error for trace in found]).square().mean().sqrt()
    assert float((values.mean() - truth).abs()) < 4 * float(error)
    assert float(stated) == pytest.approx(float(values.std()), rel=0.4)
    assert float(stated) > 0


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_chunks_do_not_change_the_trace(activation: str) -> None:
    p = make_problem(samples=7, activation=activation)
    whole, parts = (hessian_trace(p.model, p.x, p.y, loss=p.loss, chunk_size=c).value for c in (None, 3))
    torch.testing.assert_close(parts, whole)


@given(problem=problems(max_samples=6), seed=seeds())
@examples(10)
def test_tangent_kernel_is_the_jacobians_gram_matrix(problem: Problem, seed: int) -> None:
    xi = random_scales(problem, seed)
    J = output_jacobian(problem)
    roots = torch.cat(
        [r.expand(p.numel()) for r, p in zip(xi.sqrt(), problem.model.parameters(), strict=True)]
    )
    wanted = (J * roots) @ (J * roots).T
    found = tangent_kernel(problem.model, problem.x, scales=xi)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    n, c = len(problem.x), problem.model.widths[-1]
    summed = torch.einsum("icjc->ij", wanted.view(n, c, n, c))
    torch.testing.assert_close(
        tangent_kernel(problem.model, problem.x, scales=xi, trace_outputs=True), summed, rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(top_eigenvalues(found, 1)[0], torch.linalg.eigvalsh(wanted)[-1])


def test_mse_hessian_without_feature_terms_has_the_kernels_spectrum() -> None:
    p = make_problem(depth=1, loss="mse", samples=4, inputs=6, outputs=2)
    kernel = top_eigenvalues(tangent_kernel(p.model, p.x), 8)
    hessian = torch.linalg.eigvalsh(full_hessian(p)).flip(0)[:8] * len(p.x)
    torch.testing.assert_close(kernel, hessian)


def test_density_with_all_steps_reproduces_moments_of_the_spectrum() -> None:
    p = make_problem(depth=2, inputs=3, base_width=2, outputs=2, samples=5)
    values = torch.linalg.eigvalsh(full_hessian(p))
    found = spectral_density(p.model, p.x, p.y, loss=p.loss, steps=len(values), probes=100)
    assert float(found.moment(0)) == pytest.approx(1)
    for power in (1, 2):
        wanted = float((values**power).mean())
        assert float(found.moment(power)) == pytest.approx(wanted, rel=0.15)


def test_density_integrates_to_one_and_shows_the_top_eigenvalue() -> None:
    p = make_problem()
    top = float(torch.linalg.eigvalsh(full_hessian(p))[-1])
    found = spectral_density(p.model, p.x, p.y, loss=p.loss, steps=20, probes=3)
    grid = torch.linspace(-5 * top, 5 * top, 20001, dtype=torch.float64)
    assert float(torch.trapezoid(found.density(grid, 0.02 * top), grid)) == pytest.approx(1, rel=1e-6)
    assert float(found.nodes.nan_to_num().max()) == pytest.approx(top, rel=1e-6)


def test_mistakes_name_the_argument() -> None:
    p = make_problem()
    with pytest.raises(UserError, match=r"^steps:"):
        spectral_density(p.model, p.x, p.y, loss=p.loss, steps=0)
    with pytest.raises(UserError, match=r"^width:"):
        spectral_density(p.model, p.x, p.y, loss=p.loss, steps=2).density(torch.zeros(1), 0.0)
    with pytest.raises(UserError, match=r"^x:"):
        tangent_kernel(p.model, p.x[0])
    with pytest.raises(UserError, match=r"^scales:"):
        tangent_kernel(p.model, p.x, scales=torch.ones(2))
    with pytest.raises(UserError, match=r"^k:"):
        top_eigenvalues(torch.eye(3), 4)
    with pytest.raises(UserError, match=r"^kernel:"):
        top_eigenvalues(torch.ones(3, 4), 1)
