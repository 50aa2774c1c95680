"""The quantity central_flow: gradient flow and central flow beside gradient descent."""

import copy

import pytest
import torch

from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.flow.follow import follow
from scaled_sgd.diagnostics.flow.landscape import NetworkLandscape
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch
from tests.oracles import Problem, make_problem

EVERY, LR = 2, 0.8


def observer_of(p: Problem, *, whole: bool = True) -> Observer:
    config = DiagnosticsConfig(every=EVERY, taylor=False, sharpness=False, ranks=False)
    config.quantities = ["central_flow"]
    return Observer(config, p.model, p.x, p.y, loss=p.loss, say=lambda line: None, probe_is_all=whole)


def measure(observer: Observer, p: Problem) -> dict[str, float]:
    taken = StepTaken(Direction(torch.ones(p.model.depth, dtype=torch.float64)), LR)
    return observer.measure(Minibatch(p.model, p.x, p.y, loss=p.loss), taken)


@torch.no_grad()
def descend(p: Problem, landscape: NetworkLandscape, steps: int) -> None:
    w = landscape.weights
    for _ in range(steps):
        w = w - LR * landscape(w).gradient
    landscape(w)


def landscape_of(p: Problem, model: torch.nn.Module) -> NetworkLandscape:
    return NetworkLandscape(model, p.x, p.y, loss=p.loss)


def test_columns_are_those_of_the_flows_followed_at_once_and_resume_bit_for_bit() -> None:
    p = make_problem(samples=4, depth=2, base_width=2, activation="tanh", loss="mse")
    spaces = tuple(landscape_of(p, copy.deepcopy(p.model)) for _ in range(3))
    wanted = list(follow(spaces, spaces[0].weights, lr=LR, length=2 * EVERY, count=2, substeps=2))
    observer = observer_of(p)
    rows = [measure(observer, p)]
    assert rows[0]["central_flow_distance"] == rows[0]["gradient_flow_loss_error"] == 0
    for _ in range(2):
        state = observer.state_dict()
        descend(p, landscape_of(p, p.model), EVERY)
        rows.append(measure(observer, p))
    resumed = observer_of(p)
    resumed.load_state_dict(state)
    assert measure(resumed, p) == rows[2]
    between, last = wanted[EVERY : 2 * EVERY], wanted[-1]
    means = {
        "descent": [row["descent"]["loss"] for row in between],
        "gradient_flow": [row["gradient_flow"]["loss"] for row in between],
        "central_flow": [row["central_flow"]["descent_loss"] for row in between],
    }
    for path, losses in means.items():
        assert rows[2][f"{path}_loss"] == pytest.approx(sum(losses) / EVERY, rel=1e-9)
    for path in ("gradient_flow", "central_flow"):
        # Eigenvalues are started anew at every measurement.
        assert rows[2][f"{path}_sharpness"] == pytest.approx(last[path]["eigenvalues"][0], rel=1e-6)


def test_other_steps_than_those_of_gradient_descent_are_refused() -> None:
    p = make_problem(samples=4, depth=2, base_width=2, activation="tanh", loss="mse")
    observer = observer_of(p)
    measure(observer, p)
    descend(p, landscape_of(p, p.model), EVERY - 1)
    with pytest.raises(UserError, match=r"^diagnostics\.quantities: central_flow follows w − η∇L"):
        measure(observer, p)
    with pytest.raises(UserError, match=r"diagnostics\.samples all"):
        measure(observer_of(p, whole=False), p)
