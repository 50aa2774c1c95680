"""Growth of mean square distances in a step of SGD: as a function, of any network."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics import noise_stability
from tests.oracles import Foreign, Problem, full_gauss_newton, full_hessian, make_problem, to_flat

ROWS = ([0, 3, 5], [1, 2, 4, 6], [7, 8, 0])
"""Samples of the minibatches."""


def growth(curvatures: list[Tensor], rate: float, kept: float) -> Tensor:
    steps = [kept * torch.eye(len(C), dtype=C.dtype) - rate * C for C in curvatures]
    return torch.linalg.eigvalsh(sum(step @ step for step in steps) / len(steps))[-1]


def minibatches(p: Problem) -> list[tuple[Tensor, Tensor]]:
    return [(p.x[rows], p.y[rows]) for rows in ROWS]


@pytest.mark.parametrize("lr", [0.02, 3.0])
def test_growth_of_any_module_is_that_of_dense_matrices(lr: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 3
    named = dict(model.named_parameters())
    theta = to_flat([p.detach() for p in named.values()])
    sizes = [p.numel() for p in named.values()]
    xi = torch.tensor([0.5, 1.0, 2.0, 0.3], dtype=torch.float64)
    roots = torch.cat([r.expand(size) for r, size in zip(xi.sqrt(), sizes, strict=True)])

    def outputs(flat: Tensor, rows: list[int]) -> Tensor:
        parts = zip(named.items(), flat.split(sizes), strict=True)
        f: Tensor = functional_call(model, {name: t.view_as(p) for (name, p), t in parts}, (x[rows],))
        return f

    H, G = [], []
    loss = nn.functional.cross_entropy
    for rows in ROWS:
        H.append(hessian(lambda flat, rows=rows: loss(outputs(flat, rows), y[rows]))(theta))
        f, J = outputs(theta, rows), jacrev(outputs)(theta, rows)
        ell = torch.stack([hessian(loss)(one, target) for one, target in zip(f, y[rows], strict=True)])
        G.append(torch.einsum("icp,icd,idq->pq", J, ell, J) / len(rows))
    batches = [(x[rows], y[rows]) for rows in ROWS]
    for part, matrices in (("hessian", H), ("gauss_newton", G)):
        settings = {"lr": lr, "weight_decay": 0.1, "scales": xi, "part": part, "tolerance": 1e-6}
        found = noise_stability(model, batches, loss="cross_entropy", **settings)
        wanted = growth([roots[:, None] * C * roots for C in matrices], lr, 1 - 0.1 * lr)
        assert found.converged
        assert float(found.values[0]) == pytest.approx(float(wanted), rel=1e-7)
        v = torch.cat([rows.reshape(-1) for rows in found.expand()])
        assert float(v.norm()) == pytest.approx(1)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_growth_of_our_networks_is_that_of_dense_matrices_and_of_any_module(activation: str) -> None:
    p = make_problem(samples=9, loss="mse", activation=activation)
    xi = torch.tensor([0.5, 1.0, 2.0, 0.7], dtype=torch.float64)
    settings = {"loss": p.loss, "lr": 3.0, "scales": xi, "tolerance": 1e-5}
    for part, dense in (("hessian", full_hessian), ("gauss_newton", full_gauss_newton)):
        parts = [dense(Problem(p.model, *batch, p.loss), xi) for batch in minibatches(p)]
        for model, chunk_size in ((p.model, None), (p.model, 2), (Foreign(p.model), None)):
            found = noise_stability(model, minibatches(p), part=part, chunk_size=chunk_size, **settings)
            assert float(found.values[0]) == pytest.approx(float(growth(parts, 3.0, 1.0)), rel=1e-9)


def test_a_start_from_another_eigenvector_hides_nothing() -> None:
    p = make_problem(samples=9, loss="mse", activation="gelu")
    parts = [full_hessian(Problem(p.model, *batch, p.loss)) for batch in minibatches(p)]
    steps = [torch.eye(len(H), dtype=H.dtype) - 3 * H for H in parts]
    values, vectors = torch.linalg.eigh(sum(step @ step for step in steps) / 3)
    settings = {"loss": p.loss, "lr": 3.0, "tolerance": 1e-5}
    for start in vectors.T[[0, -2]]:
        found = noise_stability(p.model, minibatches(p), warm_start=start[None], **settings)
        assert float(found.values[0]) == pytest.approx(float(values[-1]), rel=1e-9)


def test_a_network_that_is_not_finite_has_no_growth() -> None:
    p = make_problem(samples=9)
    with torch.no_grad():
        p.model.layers[0].weight.fill_(math.nan)
    assert math.isnan(float(noise_stability(p.model, minibatches(p), loss=p.loss, lr=1.0).values[0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr: -1.0 is not usable"),
        ({"lr": 1.0, "weight_decay": math.nan}, "weight_decay: nan is not usable"),
        ({"lr": 1.0, "scales": "norm"}, "scales: 'norm' is of one minibatch; allowed: None or a tensor"),
        ({"lr": 1.0, "tolerance": 0}, "tolerance: 0 is not usable"),
    ],
)
def test_mistakes_are_refused(settings: dict[str, float], message: str) -> None:
    p = make_problem()
    with pytest.raises(UserError, match=message):
        noise_stability(p.model, minibatches(make_problem(samples=9)), loss=p.loss, **settings)


def test_no_minibatches_are_refused() -> None:
    with pytest.raises(UserError, match="minibatches: there are none"):
        noise_stability(make_problem().model, [], loss="mse", lr=1.0)
