"""Central flow, gradient flow and gradient descent of losses with known solutions and of small networks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jvp

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.flow.central import CentralFlow
from scaled_sgd.diagnostics.flow.complementarity import complementary
from scaled_sgd.diagnostics.flow.follow import follow
from scaled_sgd.diagnostics.flow.landscape import NetworkLandscape
from tests.oracles import flat_loss, flat_parameters, full_hessian, gradients, make_problem, to_flat

Loss = Callable[[Tensor], Tensor]


class Dense:
    """A point of any loss, by automatic differentiation."""

    def __init__(self, loss: Loss, w: Tensor) -> None:
        self._loss, self._w = loss, w

    @property
    def loss(self) -> float:
        return float(self._loss(self._w))

    @property
    def gradient(self) -> Tensor:
        return grad(self._loss)(self._w)

    def eigenpairs(self, k: int, start: Tensor | None) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(hessian(self._loss)(self._w))
        return values.flip(0)[:k], vectors.T.flip(0)[:k]

    def third(self, u: Tensor, v: Tensor) -> Tensor:
        def along(w: Tensor) -> Tensor:
            return jvp(lambda at: jvp(self._loss, (at,), (u,))[1], (w,), (v,))[1]

        return grad(along)(self._w)


def of(loss: Loss) -> Callable[[Tensor], Dense]:
    return lambda w: Dense(loss, w)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_complementary_matrices_satisfy_the_three_conditions(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    for _ in range(5):
        A = torch.randn(k, k, generator=generator, dtype=torch.float64)
        T = torch.randn(k, k, 40, generator=generator, dtype=torch.float64)
        A, T = A + A.T, (T + T.transpose(0, 1)).view(k * k, -1)
        B = (T @ T.T).view(k, k, k, k)
        found = complementary(A, B)
        S = A + (B.view(k * k, k * k) @ found.X.reshape(-1)).view(k, k)
        assert found.residual < 1e-9
        assert float(torch.linalg.eigvalsh(found.X)[0]) > -1e-9
        assert float(torch.linalg.eigvalsh(S)[0]) > -1e-6
        assert float((found.X * S).sum().abs()) < 1e-6


def test_sharpness_that_grows_at_a_constant_rate_stops_at_the_edge() -> None:
    """L = ½ y x² − a y: λ = y grows by ηa a step up to 2/η, where Σ_xx = 2a holds it."""
    a, lr = 0.3, 0.5

    def loss(w: Tensor) -> Tensor:
        return 0.5 * w[1] * w[0] ** 2 - a * w[1]

    central = CentralFlow(of(loss), torch.tensor([0.0, 3.5], dtype=torch.float64), lr, count=1, substeps=4)
    for step in range(1, 8):
        averaged = central.advance()
        y = min(3.5 + lr * a * step, 2 / lr)
        assert float(central.w[1]) == pytest.approx(y, abs=1e-9)
        if step > 4:
            assert averaged.oscillation == pytest.approx(2 * a, rel=1e-9)
            assert averaged.loss == pytest.approx(-a * y + 0.5 * y * 2 * a, abs=1e-9)


def test_two_sharp_directions_share_the_oscillation() -> None:
    """L = ½ Σ y_i x_i² − Σ a_i y_i: each holds its own eigenvalue."""
    a, lr = torch.tensor([0.3, 0.2], dtype=torch.float64), 0.5

    def loss(w: Tensor) -> Tensor:
        return (0.5 * w[2:] * w[:2] ** 2 - a * w[2:]).sum()

    start = torch.tensor([0.0, 0.0, 3.9, 3.9], dtype=torch.float64)
    central = CentralFlow(of(loss), start, lr, count=1, substeps=4)
    for _ in range(4):
        averaged = central.advance()
    torch.testing.assert_close(central.w[2:], torch.full((2,), 4.0, dtype=torch.float64))
    assert averaged.oscillation == pytest.approx(float(2 * a.sum()), rel=1e-6)


def test_far_from_the_edge_both_flows_of_a_quadratic_are_its_solution() -> None:
    h, lr, steps = torch.tensor([1.0, 0.25], dtype=torch.float64), 0.1, 8

    def loss(w: Tensor) -> Tensor:
        return 0.5 * (h * w**2).sum()

    w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    rows = list(follow((of(loss),) * 3, w, lr=lr, length=steps, count=1, substeps=8))
    exact = float(loss(w * torch.exp(-h * lr * steps)))
    assert rows[-1]["gradient_flow"]["loss"] == pytest.approx(exact, rel=1e-8)
    assert rows[-1]["central_flow"]["loss"] == pytest.approx(exact, rel=3e-2)
    assert rows[-1]["descent"]["loss"] == pytest.approx(float(loss(w * (1 - lr * h) ** steps)), rel=1e-12)
    assert all(row["central_flow"].get("oscillation", 0) == 0 for row in rows)


def test_a_quadratic_beyond_the_edge_has_no_central_flow() -> None:
    def loss(w: Tensor) -> Tensor:
        return 0.5 * 5 * w[0] ** 2

    with pytest.raises(UserError, match=r"^flow: no oscillation keeps 1 eigenvalues at 2/η = 2 "):
        list(follow((of(loss),) * 3, torch.ones(1, dtype=torch.float64), lr=1.0, length=3, count=1))


def test_points_of_a_network_are_those_of_automatic_differentiation() -> None:
    p = make_problem(samples=7, activation="tanh")
    w = flat_parameters(p.model).clone()
    point = NetworkLandscape(p.model, p.x, p.y, loss=p.loss)(w)
    assert point.loss == pytest.approx(float(flat_loss(p, w)))
    torch.testing.assert_close(point.gradient, to_flat(gradients(p)))
    values, vectors = point.eigenpairs(2, None)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(full_hessian(p)).flip(0)[:2])
    dense = Dense(lambda at: flat_loss(p, at), w)
    wanted = dense.third(vectors[0], vectors[1])
    torch.testing.assert_close(point.third(vectors[0], vectors[1]), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.full
def test_at_the_edge_the_central_flow_predicts_the_mean_loss_of_gradient_descent() -> None:
    def landscape() -> NetworkLandscape:
        p = make_problem(
            samples=10, inputs=3, outputs=1, depth=2, base_width=8, width_exponent=0, activation="tanh",
            loss="mse",
        )  # fmt: skip
        return NetworkLandscape(p.model, p.x, p.y, loss="mse", tolerance=1e-4)

    landscapes = (landscape(), landscape(), landscape())
    w = landscapes[0].weights
    for _ in range(60):
        w = w - landscapes[0](w).gradient
    rows = list(follow(landscapes, w, lr=3.6, length=140, count=1, substeps=2))
    late = rows[60:140]
    of_descent, of_flow, predicted = (
        sum(row[name][key] for row in late) / len(late)
        for name, key in (("descent", "loss"), ("gradient_flow", "loss"), ("central_flow", "descent_loss"))
    )
    assert predicted == pytest.approx(of_descent, rel=0.15)
    assert of_flow < of_descent / 2
    edge = 2 / 3.6
    assert all(row["central_flow"]["eigenvalues"][0] < 1.02 * edge for row in rows)
    assert rows[-1]["gradient_flow"]["eigenvalues"][0] > 1.3 * edge
    assert rows[-1]["distance"]["central_flow"] < rows[-1]["distance"]["gradient_flow"] / 3
