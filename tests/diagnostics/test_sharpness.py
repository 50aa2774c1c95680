import pytest
import torch
from hypothesis import assume, given

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics import sharpness
from scaled_sgd.diagnostics.algorithms.lanczos import lanczos
from tests.diagnostics.strategies import problems, seeds
from tests.examples import examples
from tests.oracles import Problem, full_hessian, make_problem, to_flat


class Diagonal:
    """A diagonal matrix, with another inner product than the Euclidean one when ``metric`` is given."""

    def __init__(self, diagonal: torch.Tensor, metric: torch.Tensor | None = None) -> None:
        self.diagonal, self.metric = diagonal, metric
        self.size, self.dtype, self.device = len(diagonal), diagonal.dtype, diagonal.device
        self.identity_dual = metric is None
        self.products = 0

    @property
    def vectors(self) -> "Diagonal":
        return self

    def multiply(self, dual: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        self.products += 1
        return torch.mul(dual if self.metric is None else dual / self.metric, self.diagonal, out=out)

    def dual(self, coefficients: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return coefficients if self.metric is None else self.metric * coefficients

    def random(self, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.size, generator=generator, dtype=self.dtype)

    def sum(self, t: torch.Tensor) -> torch.Tensor:
        return t


def pairs(problem: Problem, **options: object) -> object:
    return sharpness(problem.model, problem.x, problem.y, loss=problem.loss, **options)


@pytest.mark.parametrize("which", ["largest", "magnitude"])
@pytest.mark.parametrize("weighted", [False, True])
def test_thick_restarts_reach_the_wanted_end_of_a_long_spectrum(which: str, weighted: bool) -> None:
    diagonal = torch.cat([torch.linspace(-5, 1, 300), torch.tensor([2.0, 2.1, 2.2])]).double()
    metric = torch.linspace(0.1, 3, 303).double() if weighted else None
    space = Diagonal(diagonal, metric)
    found = lanczos(space, space.random(1), k=3, which=which, tolerance=1e-9, basis=9, max_iterations=900)
    order = (diagonal.abs() if which == "magnitude" else diagonal).argsort(descending=True)
    assert found.converged
    assert found.iterations == space.products
    torch.testing.assert_close(found.values, diagonal[order[:3]], rtol=1e-9, atol=0)
    gram = found.vectors @ (found.vectors * (1 if metric is None else metric)).T
    torch.testing.assert_close(gram, torch.eye(3).double(), atol=1e-9, rtol=0)
    residual = (found.vectors * diagonal - found.values[:, None] * found.vectors).norm(dim=1)
    assert bool((residual <= 1e-7).all())


def test_a_start_in_an_invariant_subspace_does_not_hide_the_rest() -> None:
    space = Diagonal(torch.tensor([3.0, 2.0, 1.0]).double())
    found = lanczos(space, torch.tensor([0.0, 1.0, 0.0]).double(), k=2, basis=5)
    torch.testing.assert_close(found.values, torch.tensor([3.0, 2.0]).double())


def test_no_more_pairs_than_dimensions() -> None:
    space = Diagonal(torch.tensor([3.0, 2.0]).double())
    assert len(lanczos(space, space.random(0), k=4, basis=9).values) == 2


def test_a_zero_matrix_has_eigenvalue_zero() -> None:
    space = Diagonal(torch.zeros(4).double())
    found = lanczos(space, space.random(0))
    assert found.converged
    assert found.values.tolist() == [0.0]


def test_max_iterations_counts_products_and_stops_honestly() -> None:
    space = Diagonal(torch.linspace(0, 1, 500).double())
    found = lanczos(space, space.random(0), tolerance=1e-12, max_iterations=7, basis=5)
    assert (found.iterations, space.products, found.converged) == (7, 7, False)
    assert float(found.residuals[0]) > 1e-12


@given(problem=problems(max_depth=4, max_samples=8), seed=seeds())
@examples(8)
def test_all_spaces_find_the_top_eigenpairs_of_the_full_hessian(problem: Problem, seed: int) -> None:
    assume(not (problem.loss == "cross_entropy" and problem.model.widths[-1] == 1))
    generator = torch.Generator().manual_seed(seed)
    xi = torch.rand(problem.model.depth, dtype=torch.float64, generator=generator) + 0.1
    H = full_hessian(problem, xi)
    top = float(torch.linalg.eigvalsh(H)[-1])
    assume(top > 1e-8)
    for space in ("dense", "factor", "auto"):
        found = pairs(problem, scales=xi, space=space, tolerance=1e-8, max_iterations=400, seed=seed)
        v = to_flat(found.expand())
        assert found.converged
        assert float(found.values[0]) == pytest.approx(top, rel=1e-7)
        assert float(v.norm()) == pytest.approx(1, rel=1e-7)
        assert float((H @ v - top * v).norm()) < 2e-7 * top


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("samples", [4, 30])
def test_several_pairs_of_largest_magnitude(loss: str, samples: int) -> None:
    problem = make_problem(loss=loss, samples=samples, base_width=5)
    values = torch.linalg.eigvalsh(full_hessian(problem))
    wanted = values[values.abs().argsort(descending=True)[:4]]
    for space in ("dense", "factor"):
        found = pairs(problem, k=4, which="magnitude", space=space, tolerance=1e-9, max_iterations=300)
        torch.testing.assert_close(found.values, wanted, rtol=1e-8, atol=0)


def test_float32_residuals_are_true_residuals() -> None:
    problem = make_problem(samples=8, inputs=20, base_width=12, dtype=torch.float32)
    exact = make_problem(samples=8, inputs=20, base_width=12)
    exact.model.load_state_dict({name: p.double() for name, p in problem.model.state_dict().items()})
    exact = Problem(exact.model, problem.x.double(), problem.y, problem.loss)
    H = full_hessian(exact)
    for space in ("dense", "factor", "auto"):
        found = pairs(problem, space=space)
        v = to_flat(found.expand()).double()
        true = float((H @ v - found.values[0] * v).norm() / found.values[0])
        assert true == pytest.approx(float(found.residuals[0]), rel=0.05, abs=2e-5)


def test_chunks_find_the_same_eigenvalue() -> None:
    problem = make_problem(samples=11)
    whole, parts = (pairs(problem, tolerance=1e-9, chunk_size=c) for c in (None, 4))
    torch.testing.assert_close(parts.values, whole.values, rtol=1e-9, atol=0)


@pytest.mark.parametrize("space", ["dense", "factor", "auto"])
def test_a_warm_start_on_unchanged_weights_takes_one_product(space: str) -> None:
    problem = make_problem(samples=8, base_width=6)
    first = pairs(problem, space=space)
    assert pairs(problem, space=space, warm_start=first).iterations == 1
    assert pairs(problem, space=space, warm_start=first.vectors).iterations == 1


def test_a_warm_start_follows_training_in_fewer_products() -> None:
    problem = make_problem(samples=16, inputs=30, outputs=5, base_width=16, depth=5, dtype=torch.float32)
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.1)
    state, cold, warm = None, 0, 0
    for step in range(12):
        fresh, state = pairs(problem), pairs(problem, warm_start=state)
        assert state.converged
        assert float(state.values[0]) == pytest.approx(float(fresh.values[0]), rel=1e-4)
        if step > 0:
            cold, warm = cold + fresh.iterations, warm + state.iterations
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(problem.model(problem.x), problem.y).backward()
        optimizer.step()
    assert warm <= 0.75 * cold


def test_a_network_that_is_not_finite_gives_nan_and_a_dead_one_zero() -> None:
    problem = make_problem()
    with torch.no_grad():
        problem.model.layers[1].weight.mul_(torch.nan)
    found = pairs(problem)
    assert not found.converged
    assert bool(found.values.isnan().all())
    with torch.no_grad():
        for p in problem.model.parameters():
            p.zero_()
    dead = pairs(Problem(problem.model, 0 * problem.x, problem.y, problem.loss))
    assert (float(dead.values[0]), dead.converged) == (0.0, True)


def test_mistakes_name_the_argument() -> None:
    p = make_problem()
    for name, wrong in {
        "k": {"k": 0},
        "basis": {"basis": 2},
        "max_iterations": {"max_iterations": 0},
        "which": {"which": "smallest"},
        "space": {"space": "sparse"},
        "warm_start": {"warm_start": torch.ones(1, 3)},
    }.items():
        with pytest.raises(UserError, match=f"^{name}:"):
            pairs(p, **wrong)
