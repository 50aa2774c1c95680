"""Rates and curvatures at the edge: along the step, for AdamW, in the norm of the step."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.core.losses import get_loss
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.algorithms.ascent import ascend
from scaled_sgd.diagnostics.algorithms.crossing import crossing
from scaled_sgd.diagnostics.generalized import FrobeniusBall, SpectralBall
from scaled_sgd.diagnostics.moved import loss_of_rate
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.operators.curvature import curvature
from scaled_sgd.diagnostics.taken import AdamState, StepTaken
from scaled_sgd.diagnostics.taylor import Along, TaylorCoefficients, taylor_of
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.rules import RULES
from tests.oracles import Problem, full_hessian, gradients, make_problem, mean_loss, parameters, to_flat


def batch_of(p: Problem) -> Minibatch:
    return Minibatch(p.model, p.x, p.y, loss=p.loss)


def measured(p: Problem, name: str, taken: StepTaken) -> dict[str, float]:
    config = DiagnosticsConfig(every=1, taylor=False, sharpness=False, ranks=False, tolerance=1e-9)
    config.quantities = [name]
    observer = Observer(config, p.model, p.x, p.y, loss=p.loss, say=lambda line: None)
    return observer.measure(batch_of(p), taken)


def ones(p: Problem) -> Direction:
    return Direction(torch.ones(p.model.depth, dtype=torch.float64))


def loss_after(p: Problem, step: list[Tensor]) -> float:
    values = parameters(p.model)
    moved = {name: w + s for (name, w), s in zip(values.items(), step, strict=True)}
    f = functional_call(p.model, moved, (p.x,))
    return float(get_loss(p.loss).value(f, p.y).mean())


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_the_loss_along_a_direction_is_that_of_moved_weights(activation: str, chunk_size: int | None) -> None:
    p = make_problem(samples=9, activation=activation)
    batch = Minibatch(p.model, p.x, p.y, loss=p.loss, chunk_size=chunk_size)
    xi = torch.tensor([1.0, 0.5, 2.0, 1.5], dtype=torch.float64)
    along = loss_of_rate(batch, Direction(xi))
    step = [-0.7 * s * G for s, G in zip(xi, gradients(p), strict=True)]
    assert along(0.7) == pytest.approx(loss_after(p, step), rel=1e-12)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_step_at_the_critical_rate_leaves_the_loss(activation: str, momentum: float) -> None:
    p = make_problem(samples=9, activation=activation, base_width=5, loss="mse")

    def velocity(k: int) -> Tensor:
        return 2 * gradients(p)[k - 1]

    taken = StepTaken(ones(p), 0.3, factor=0.5, momentum=momentum, velocity=velocity)
    row = measured(p, "critical_rate", taken)
    v = [0.5 * G + momentum * 2 * G for G in gradients(p)]
    rate, before = row["critical_rate"], float(mean_loss(p, parameters(p.model)))
    assert loss_after(p, [-rate * t for t in v]) == pytest.approx(before, rel=1e-7)
    assert loss_after(p, [-0.9 * rate * t for t in v]) < before < loss_after(p, [-1.1 * rate * t for t in v])
    assert row["critical_sharpness"] == 2 / rate
    assert row["critical_edge_ratio"] == pytest.approx(0.3 / rate)


def test_the_predicted_critical_rate_is_the_first_root_of_the_polynomial() -> None:
    """A linear network of one layer: the loss along the gradient is a parabola, so that it is exact."""
    p = make_problem(depth=1, loss="mse", samples=9)
    row = measured(p, "critical_rate", StepTaken(ones(p), 0.1))
    g, H = to_flat(gradients(p)), full_hessian(p)
    assert row["predicted_critical_rate"] == pytest.approx(float(2 * g @ g / (g @ H @ g)), rel=1e-9)
    assert row["critical_rate"] == pytest.approx(row["predicted_critical_rate"], rel=1e-8)


def test_the_critical_rate_takes_the_taylor_terms_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Minibatch] = []

    def watched(batch: Minibatch, along: Along) -> TaylorCoefficients:
        calls.append(batch)
        return taylor_of(batch, along)

    monkeypatch.setattr("scaled_sgd.diagnostics.observer.taylor_of", watched)
    p = make_problem(samples=9)
    config = DiagnosticsConfig(every=1, sharpness=False, ranks=False, quantities=["critical_rate"])
    observer = Observer(config, p.model, p.x, p.y, loss=p.loss, say=lambda line: None)
    row = observer.measure(batch_of(p), StepTaken(ones(p), 0.1))
    assert row["taylor"]["c1"] < 0 < row["critical_rate"]
    assert len(calls) == 1


@pytest.mark.parametrize("first", [1e-3, 1.0, 700.0])
def test_a_crossing_is_found_from_anywhere_and_past_overflow(first: float) -> None:
    def rise(rate: float) -> float:
        return math.inf if rate > 50 else rate**3 - 3 * rate

    assert crossing(rise, first, tolerance=1e-10) == pytest.approx(3**0.5, rel=1e-9)
    assert crossing(lambda rate: -rate, first) is None
    assert crossing(lambda rate: math.nan, first) is None


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_on_a_quadratic_is_unstable_just_beyond_its_edge(weight_decay: float) -> None:
    """Spectral radius of the linear step with ν at rest: below 1 inside, above 1 outside."""
    adam, lr = AdamState((0.9, 0.999), 1e-8, 10, lambda k: None), 0.02
    edge = adam.edge(lr, weight_decay)
    assert edge is not None
    if weight_decay == 0:
        assert edge == pytest.approx(38 / lr)
    for factor, stable in ((0.999, True), (1.001, False)):
        h, keep = factor * edge, 1 - lr * weight_decay
        step = torch.tensor([[keep - lr * 0.1 * h, -lr * 0.9], [0.1 * h, 0.9]], dtype=torch.float64)
        assert (float(torch.linalg.eigvals(step).abs().max()) < 1) is stable


def test_adam_sharpness_has_the_denominators_of_the_coming_step() -> None:
    p = make_problem(samples=9, base_width=4)
    optimizer = torch.optim.AdamW(p.model.parameters(), 0.01, weight_decay=0.1)
    weights = list(p.model.parameters())
    xi, c, found = torch.tensor([1.0, 0.5, 2.0, 1.5], dtype=torch.float64), 0.7, []
    for _ in range(3):
        state = optimizer.state.get(weights[0], {})
        squares = [optimizer.state[w]["exp_avg_sq"].clone() if state else None for w in weights]
        adam = AdamState((0.9, 0.999), 1e-8, int(state.get("step", 0)), lambda k, s=squares: s[k - 1])
        taken = StepTaken(Direction(xi), 0.01, factor=c, weight_decay=0.1, known=False, adam=adam)
        found.append((measured(p, "adam_sharpness", taken), full_hessian(p)))
        for w, s, G in zip(weights, xi, gradients(p), strict=True):
            w.grad = c * s * G
        optimizer.step()
        t = int(optimizer.state[weights[0]]["step"])
        P = to_flat([(optimizer.state[w]["exp_avg_sq"] / (1 - 0.999**t)).sqrt() + 1e-8 for w in weights])
        scale = torch.cat([s.expand(w.numel()) for s, w in zip(xi, weights, strict=True)])
        root = (c * scale / (P * (1 - 0.9**t))).sqrt()
        row, H = found[-1]
        wanted = float(torch.linalg.eigvalsh(root[:, None] * H * root)[-1])
        assert row["adam_sharpness"] == pytest.approx(wanted, rel=1e-6)
        assert row["adam_edge_ratio"] == pytest.approx(wanted / row["adam_edge"], rel=1e-6)


def sizes(p: Problem) -> list[int]:
    return [w.numel() for w in p.model.parameters()]


@pytest.mark.parametrize("space", ["dense", "factor"])
def test_ascents_end_at_stationary_points_inside_the_ball(space: str) -> None:
    p = make_problem(samples=6, base_width=4)
    operator, radii = curvature(batch_of(p), space=space), torch.tensor([0.5, 1.0, 2.0, 0.7])
    ball = FrobeniusBall(operator.vectors, radii.double())
    found = ascend(operator, ball.touch, operator.start(0), tolerance=1e-9, max_iterations=500)
    product = [rows.reshape(-1) for rows in operator.vectors.expand(found.product)]
    d = torch.cat([r * part / part.norm() for r, part in zip(radii, product, strict=True)])
    H = full_hessian(p)
    assert found.value == pytest.approx(float(d @ H @ d), rel=1e-6)
    # No random direction of the ball is better, and the relaxation bounds it from above.
    xi = torch.cat([x.expand(n) for x, n in zip(ball.scales(found.product), sizes(p), strict=True)])
    bound = float(torch.linalg.eigvalsh(xi.sqrt()[:, None] * H * xi.sqrt())[-1])
    assert found.value <= bound * (1 + 1e-9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        draws = [torch.randn(n, generator=generator, dtype=torch.float64) for n in sizes(p)]
        e = torch.cat([r * t / t.norm() for r, t in zip(radii, draws, strict=True)])
        assert float(e @ H @ e) <= found.value


def test_in_the_euclidean_ball_an_ascent_finds_the_largest_eigenvalue() -> None:
    p = make_problem(depth=1, samples=6, loss="cross_entropy")
    operator = curvature(batch_of(p), space="dense")
    ball = FrobeniusBall(operator.vectors, torch.ones(1, dtype=torch.float64))
    found = ascend(operator, ball.touch, operator.start(0), tolerance=1e-12, max_iterations=2000)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(full_hessian(p))[-1]), rel=1e-6)


def test_the_spectral_ball_is_touched_at_the_polar_factor() -> None:
    p = make_problem(samples=6, base_width=4)
    vectors = curvature(batch_of(p), space="dense").vectors
    radii = [0.5, 1.0, 2.0, 0.7]
    slope = [torch.randn_like(w) for w in p.model.parameters()]
    flat = to_flat(slope)
    best, top = SpectralBall(vectors, radii).touch(flat, flat)
    singular = [torch.linalg.svdvals(part) for part in slope]
    assert top == pytest.approx(sum(r * float(s.sum()) for r, s in zip(radii, singular, strict=True)))
    assert float(best @ flat) == pytest.approx(top)
    for r, part in zip(radii, vectors.expand(best), strict=True):
        assert float(torch.linalg.svdvals(part)[0]) == pytest.approx(r)


@pytest.mark.parametrize("rule", ["unit", "spectral"])
def test_no_step_of_the_norm_meets_more_curvature_than_the_generalised_sharpness(rule: str) -> None:
    p = make_problem(samples=9, base_width=4, parameterization="nup", activation="tanh")
    batch = batch_of(p)
    taken = StepTaken(RULES[rule](batch.statistics), 0.3, polar=rule == "spectral")
    row = measured(p, "generalized_sharpness", taken)
    H, G = full_hessian(p), gradients(p)
    radii = [float(o) / p.model.depth for o in batch.partition.omega]
    if rule == "unit":
        U = [r * g / g.norm() for r, g in zip(radii, G, strict=True)]
        edges = torch.tensor([0, *sizes(p)]).cumsum(0).tolist()
        assert row["generalized_sharpness"] <= row["generalized_sharpness_bound"] * (1 + 1e-9)
        for (a, b), r in zip(itertools.pairwise(edges), radii, strict=True):
            assert r**2 * float(torch.linalg.eigvalsh(H[a:b, a:b])[-1]) <= row["generalized_sharpness"]
    else:
        U = [r * _polar(g) for r, g in zip(radii, G, strict=True)]
        assert row["generalized_sharpness_bound"] is None
    u, slope = to_flat(U), to_flat(U) @ to_flat(G)
    assert float(u @ H @ u) <= row["generalized_sharpness"]
    wanted = 0.3 * row["generalized_sharpness"] / (2 * float(slope))
    assert row["generalized_edge_ratio"] == pytest.approx(wanted, rel=1e-9)


def _polar(G: Tensor) -> Tensor:
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    kept = 1e-12 * S[0] < S
    return U[:, kept] @ Vh[kept]
