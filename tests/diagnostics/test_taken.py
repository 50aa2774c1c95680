"""Diagnostics along the step that is taken, with momentum, weight decay and clipping."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad
from torch.nn.functional import cross_entropy

from scaled_sgd import DepthwiseScaling, ScaledSGD
from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.directions import update_rows
from scaled_sgd.diagnostics.gates import gates_flipped
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.diagnostics.taylor import taylor_of
from scaled_sgd.steps.direction import Direction
from tests.examples import pairwise
from tests.oracles import Problem, gradients, make_problem, mean_loss, parameters

OPTIMIZERS = [
    {"momentum": 0.9},
    {"weight_decay": 0.1},
    {"momentum": 0.8, "weight_decay": 0.05},
]


def underway(options: dict[str, float], lr: float = 0.02, **shape: object) -> tuple[Problem, ScaledSGD]:
    """A network after some steps, with the momentum that they left."""
    problem = make_problem(samples=9, **shape)
    optimizer = ScaledSGD(problem.model, lr, **options)
    for _ in range(3):
        step(problem, optimizer)
    return problem, optimizer


def step(problem: Problem, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    cross_entropy(problem.model(problem.x), problem.y).backward()
    optimizer.step()


def minibatch(problem: Problem, chunk_size: int | None = None) -> Minibatch:
    return Minibatch(problem.model, problem.x, problem.y, loss=problem.loss, chunk_size=chunk_size)


def coming(
    problem: Problem, optimizer: ScaledSGD, options: dict[str, float], lr: float, c: float
) -> StepTaken:
    weights = list(problem.model.parameters())
    return StepTaken(
        optimizer.scaling.direction(minibatch(problem).statistics),
        lr,
        factor=c,
        velocity=lambda k: optimizer.velocity(weights[k - 1]),
        **options,
    )


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("factor", [1.0, 0.3])
@pytest.mark.parametrize("options", [{}, *OPTIMIZERS])
def test_terms_are_the_derivatives_along_the_step(
    options: dict[str, float], factor: float, chunk_size: int | None
) -> None:
    problem, optimizer = underway(options, activation=(0.3, 0.8))
    taken = coming(problem, optimizer, options, 0.02, factor)
    mu, decay = options.get("momentum", 0.0), options.get("weight_decay", 0.0)
    weights = list(problem.model.parameters())
    v = [
        mu * optimizer.velocity(W).clone() + factor * xi * G + decay * W.detach()
        for W, G, xi in zip(weights, gradients(problem), taken.direction.numbers, strict=True)
    ]
    values = parameters(problem.model)

    def along(eta: Tensor) -> Tensor:
        moved = {name: p - eta * u for (name, p), u in zip(values.items(), v, strict=True)}
        return mean_loss(problem, moved)

    first, zero = grad(along), torch.zeros((), dtype=torch.float64)
    wanted = [along(zero), first(zero), grad(first)(zero) / 2, grad(grad(first))(zero) / 6]
    batch = minibatch(problem, chunk_size)
    found = taylor_of(batch, taken.along(batch))
    # Along U itself the step is c times as long.
    unit = factor if taken.is_along_direction else 1.0
    terms = (found.c0, found.c1, found.c2, found.c3)
    for power, (value, reference) in enumerate(zip(terms, wanted, strict=True)):
        assert value is not None
        torch.testing.assert_close(value * unit**power, reference, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("folds", "options", "rule", "factor"),
    pairwise([False, True], [{}, *OPTIMIZERS], ["none", "norm", "gain", "kernel"], [None, 0.3]),
)
def test_the_direction_of_the_terms_is_that_of_the_optimizers_step(
    folds: bool, options: dict[str, float], rule: str, factor: float | None
) -> None:
    problem = make_problem(samples=9, activation=(0.3, 0.8))
    weights = list(problem.model.parameters())
    if folds:
        optimizer: Any = ScaledSGD(problem.model, 0.02, rule=rule, **options)
        scaling = optimizer.scaling
    else:
        optimizer = torch.optim.SGD(weights, lr=0.02, **options)
        scaling = DepthwiseScaling(problem.model, optimizer, rule=rule)
    for _ in range(3):
        step(problem, optimizer)
    batch = minibatch(problem)
    taken = StepTaken(
        scaling.direction(batch.statistics),
        0.02,
        factor=factor or 1.0,
        velocity=lambda k: optimizer.state[weights[k - 1]]["momentum_buffer"].clone(),
        **options,
    )
    along = taken.along(batch)
    rows = update_rows(batch, along) if isinstance(along, Direction) else along
    partition = batch.partition
    expected = [
        W.detach() + taken.rate * rows(k) / partition.multiplier(k) for k, W in enumerate(weights, start=1)
    ]
    scaling.factor = None if factor is None else torch.tensor(factor, dtype=torch.float64)
    step(problem, optimizer)
    for W, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(W.detach(), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("options", [{}, *OPTIMIZERS])
def test_the_predicted_loss_errs_by_fourth_order(options: dict[str, float]) -> None:
    """Where no activation changes sign, halving the rate shrinks the error sixteenfold."""
    errors = []
    for lr in (0.02, 0.01):
        problem, optimizer = underway(options, activation="linear")
        for group in optimizer.param_groups:
            group["lr"] = lr
        config = DiagnosticsConfig(every=1, sharpness=False, ranks=False)
        observer = Observer(config, problem.model, problem.x, problem.y, loss=problem.loss)
        row = observer.measure(minibatch(problem), coming(problem, optimizer, options, lr, 1.0))
        step(problem, optimizer)
        after = cross_entropy(problem.model(problem.x), problem.y).item()
        errors.append(abs(row["predicted_loss"] - after))
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.15)


def test_a_clipped_step_is_predicted_at_its_length_along_the_direction() -> None:
    problem, optimizer = underway({})
    taken = coming(problem, optimizer, {}, 0.5, 0.1)
    batch = minibatch(problem)
    short = StepTaken(taken.direction, 0.05)
    assert taken.rate == pytest.approx(short.rate)
    assert torch.equal(taylor_of(batch, taken.along(batch)).c1, taylor_of(batch, short.along(batch)).c1)
    assert taken.edge_ratio(8.0) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("momentum", "decay", "factor"), list(itertools.product([0.0, 0.9], [0.0, 0.3], [1.0, 0.25]))
)
def test_at_the_edge_heavy_ball_on_a_quadratic_neither_grows_nor_shrinks(
    momentum: float, decay: float, factor: float
) -> None:
    """v ← μ v + cλ w + λ_w w, w ← w − η v in matrix form: its spectral radius is 1 at the edge alone."""
    direction = Direction(torch.ones(1, dtype=torch.float64))
    taken = StepTaken(direction, 0.7, factor=factor, momentum=momentum, weight_decay=decay)
    assert taken.edge is not None

    def radius(sharpness: float) -> float:
        pull = factor * sharpness + decay
        matrix = torch.tensor([[momentum, pull], [-0.7 * momentum, 1 - 0.7 * pull]], dtype=torch.float64)
        return float(torch.linalg.eigvals(matrix).abs().max())

    assert taken.edge_ratio(taken.edge) == pytest.approx(1)
    assert radius(taken.edge) == pytest.approx(1)
    assert radius(1.01 * taken.edge) > 1 + 1e-4
    assert radius(0.99 * taken.edge) < 1
    assert StepTaken(direction, 0.0).edge is None


def test_the_directional_edge_ratio_is_where_the_quadratic_model_stops_to_decrease() -> None:
    problem, optimizer = underway({"momentum": 0.9})
    batch = minibatch(problem)
    taken = coming(problem, optimizer, {"momentum": 0.9}, 0.02, 1.0)
    terms = taylor_of(batch, taken.along(batch))
    ratio = terms.directional_edge_ratio(0.02)
    assert ratio is not None
    eta = 0.02 / ratio
    assert terms.c2 is not None
    assert float(terms.c1 * eta + terms.c2 * eta**2) == pytest.approx(0, abs=1e-14)


def test_nothing_is_said_of_the_step_of_an_optimizer_that_is_not_known() -> None:
    problem, _ = underway({})
    said: list[str] = []
    config = DiagnosticsConfig(every=1, ranks=False)
    observer = Observer(config, problem.model, problem.x, problem.y, loss=problem.loss, say=said.append)
    taken = StepTaken(Direction(torch.full((4,), 0.5, dtype=torch.float64)), 0.1, known=False)
    row = observer.measure(minibatch(problem), taken)
    assert set(row["taylor"].values()) == {None}
    for name in ("predicted_loss", "directional_edge_ratio", "edge_ratio", "edge"):
        assert row[name] is None
    assert row["preconditioned_sharpness"] == pytest.approx(row["sharpness"] / 2, rel=1e-2)
    assert len(said) == 2


def test_a_step_uphill_has_no_directional_edge_ratio() -> None:
    problem, _ = underway({"momentum": 0.9})
    said: list[str] = []
    backwards = [-100 * G for G in gradients(problem)]
    config = DiagnosticsConfig(every=1, sharpness=False, ranks=False)
    observer = Observer(config, problem.model, problem.x, problem.y, loss=problem.loss, say=said.append)
    numbers = torch.ones(4, dtype=torch.float64)
    taken = StepTaken(Direction(numbers), 0.1, momentum=0.9, velocity=lambda k: backwards[k - 1])
    for _ in range(2):
        row = observer.measure(minibatch(problem), taken)
        assert row["taylor"]["c1"] > 0
        assert row["directional_edge_ratio"] is None
    assert said == ["directional_edge_ratio: null where not c1 < 0 < c2, where the step has no edge"]


def hidden_signs(problem: Problem) -> list[Tensor]:
    h, signs = problem.x, []
    for k, layer in enumerate(problem.model.scaled_layers[:-1], start=1):
        z = layer(h)
        signs.append(z > 0)
        h = problem.model.activation_at(k).value(z)
    return signs


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize(
    ("activation", "rank"),
    [("relu", None), ("abs", None), ((0.3, 0.8), None), ((0.5, -0.5), None), ((0.3, 0.8), 2)],
)
@pytest.mark.parametrize("options", [{}, *OPTIMIZERS])
def test_gates_flipped_is_the_share_of_signs_that_the_step_changes(
    options: dict[str, float], activation: Any, rank: int | None, chunk_size: int | None
) -> None:
    problem, optimizer = underway(options, activation=activation, rank=rank)
    taken = coming(problem, optimizer, options, 2.0, 1.0)
    batch = minibatch(problem, chunk_size)
    found = gates_flipped(batch, taken.along(batch), taken.rate)
    before = hidden_signs(problem)
    optimizer.param_groups[0]["lr"] = 2.0
    step(problem, optimizer)
    wanted = [float((a != b).double().mean()) for a, b in zip(before, hidden_signs(problem), strict=True)]
    for k in problem.model.factored.pairs:
        wanted[k - 1] = 0.0
    assert found is not None
    assert any(wanted)
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)


def test_straight_lines_have_no_kinks_to_cross_and_smooth_activations_none_at_all() -> None:
    for activation, expected in (("linear", [0.0, 0.0, 0.0]), ("tanh", None)):
        problem, _ = underway({}, activation=activation)
        said: list[str] = []
        config = DiagnosticsConfig(every=1, sharpness=False, ranks=False)
        observer = Observer(config, problem.model, problem.x, problem.y, loss=problem.loss, say=said.append)
        row = observer.measure(minibatch(problem), StepTaken(Direction(torch.ones(4).double()), 1.0))
        assert row["gates_flipped"] == expected
        assert ("gates_flipped: null, for a smooth activation has no kink" in said) == (expected is None)
