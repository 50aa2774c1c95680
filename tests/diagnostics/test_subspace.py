import pytest
import torch

from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.diagnostics import Minibatch, sharpness, taylor_coefficients
from scaled_sgd.diagnostics.eigenpairs import Eigenpairs
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.operators.space import WeightOperator
from scaled_sgd.diagnostics.quantities.searches import Searches
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.steps.direction import Direction
from tests.oracles import Problem, flat_parameters, full_hessian, gradients, make_problem, to_flat


def top(p: Problem, k: int) -> torch.Tensor:
    return torch.linalg.eigh(full_hessian(p)).eigenvectors[:, -k:]


def test_overlap_and_shares_are_those_of_dense_eigenvectors() -> None:
    p, k = make_problem(samples=7, base_width=4), 2
    config = DiagnosticsConfig(every=1, k=k, taylor=False, sharpness=False, ranks=False, tolerance=1e-9)
    config.quantities = ["subspace"]
    observer = Observer(config, p.model, p.x, p.y, loss=p.loss)
    xi = torch.tensor([0.5, 1.0, 2.0, 0.3], dtype=torch.float64)

    def velocity(j: int) -> torch.Tensor:
        return torch.ones_like(p.model.layers[j - 1].weight)

    def measure() -> dict[str, float]:
        taken = StepTaken(Direction(xi), 0.1, momentum=0.5, velocity=velocity)
        return observer.measure(Minibatch(p.model, p.x, p.y, loss=p.loss), taken)

    assert measure()["subspace_overlap"] is None
    before = top(p, k)
    with torch.no_grad():
        for weight, G in zip(p.model.parameters(), gradients(p), strict=True):
            weight -= 0.3 * G
    row, U, g = measure(), top(p, k), to_flat(gradients(p))
    step = to_flat([0.5 + s * G for s, G in zip(xi, gradients(p), strict=True)])
    assert row["subspace_overlap"] == pytest.approx(float((U.T @ before).square().sum()) / k, rel=1e-6)
    for name, w in (("gradient_in_subspace", g), ("step_in_subspace", step)):
        assert row[name] == pytest.approx(float((U.T @ w).square().sum() / w.square().sum()), rel=1e-6)


def test_oscillation_is_the_distance_from_the_mean_of_the_middles_of_steps() -> None:
    p, rate = make_problem(samples=7, base_width=4), 0.5
    config = DiagnosticsConfig(every=1, taylor=False, sharpness=False, ranks=False, tolerance=1e-9)
    config.quantities = ["subspace"]
    observer = Observer(config, p.model, p.x, p.y, loss=p.loss)
    xi = torch.tensor([0.5, 1.0, 2.0, 0.3], dtype=torch.float64)
    middles: list[torch.Tensor] = []
    for _ in range(3):
        theta, u = flat_parameters(p.model), top(p, 1)[:, 0]
        moves = [-rate * s * G for s, G in zip(xi, gradients(p), strict=True)]
        middles.append(theta + to_flat(moves) / 2)
        again = Observer(config, p.model, p.x, p.y, loss=p.loss)
        again.load_state_dict(observer.state_dict())
        for one in (observer, again):
            row = one.measure(
                Minibatch(p.model, p.x, p.y, loss=p.loss), StepTaken(Direction(xi), rate, factor=1.0)
            )
            wanted = float((u @ (theta - torch.stack(middles).mean(0))).abs())
            assert row["oscillation"] == pytest.approx(wanted, rel=1e-5)
        with torch.no_grad():
            for weight, move in zip(p.model.parameters(), moves, strict=True):
                weight += move


def test_a_swing_between_two_sides_reads_its_amplitude() -> None:
    """A step from θ = c + a u to c − a u: the running mean is c."""
    p = make_problem(samples=7, base_width=4)
    config = DiagnosticsConfig(every=1, taylor=False, sharpness=False, ranks=False, tolerance=1e-10)
    config.quantities = ["subspace"]
    observer = Observer(config, p.model, p.x, p.y, loss=p.loss)
    rows = sharpness(p.model, p.x, p.y, loss=p.loss, tolerance=1e-10).expand()
    taken = StepTaken(
        Direction(torch.zeros(4, dtype=torch.float64)),
        0.2,
        momentum=0.5,
        velocity=lambda k: 2 * rows[k - 1],
    )
    for _ in range(3):
        row = observer.measure(Minibatch(p.model, p.x, p.y, loss=p.loss), taken)
        assert row["oscillation"] == pytest.approx(0.1, rel=1e-8)


def test_taylor_terms_along_an_eigenvector_have_its_eigenvalue() -> None:
    p = make_problem(samples=7, base_width=4)
    pairs = sharpness(p.model, p.x, p.y, loss=p.loss, tolerance=1e-10)
    terms = taylor_coefficients(p.model, p.x, p.y, loss=p.loss, direction=pairs)
    assert float(terms.c2) == pytest.approx(float(pairs.values[0]) / 2, rel=1e-9)
    assert float(terms.c1) == pytest.approx(float(to_flat(gradients(p)) @ to_flat(pairs.expand())), rel=1e-9)


@pytest.mark.parametrize(("k", "searches"), [(1, 1), (3, 2)])
def test_quantities_of_the_same_eigenpairs_share_a_search(k: int, searches: int, monkeypatch) -> None:
    """One for all that need one pair; k pairs are found for the first that needs them."""
    p = make_problem(samples=7, base_width=4)
    config = DiagnosticsConfig(every=1, k=k, taylor=False, sharpness=False, ranks=False)
    config.quantities = ["blocks", "subspace", "third_order", "generalized_sharpness"]
    found: list[int] = []
    top = Searches.top

    def watched(one: Searches, name: str, operator: WeightOperator) -> Eigenpairs:
        pairs = top(one, name, operator)
        found.extend([len(pairs.values)] if name == "hessian" else [])
        return pairs

    monkeypatch.setattr(Searches, "top", watched)
    observer = Observer(config, p.model, p.x, p.y, loss=p.loss, say=lambda line: None)
    taken = StepTaken(Direction(torch.ones(p.model.depth, dtype=torch.float64)), 0.1)
    observer.measure(Minibatch(p.model, p.x, p.y, loss=p.loss), taken)
    assert found == [1, k][:searches]
