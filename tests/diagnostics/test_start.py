"""Changes since step 0, against the network with its initial weights and its Jacobian."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jvp

from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.quantities.change import preactivations
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.steps.direction import Direction
from scaled_sgd.train.main import main
from tests.oracles import Problem, make_problem, parameters

NAMES = ("linearisation_distance", "change_by_weights", "change_by_features")


def observer_of(p: Problem, *, chunk: int = 100, say: object = None) -> Observer:
    config = DiagnosticsConfig(every=1, taylor=False, sharpness=False, ranks=False, chunk=chunk)
    config.quantities = ["from_start"]
    return Observer(config, p.model, p.x, p.y, loss=p.loss, say=say or (lambda line: None))


def measured(observer: Observer, p: Problem) -> dict[str, object]:
    taken = StepTaken(Direction(torch.ones(p.model.depth, dtype=torch.float64)), 0.1)
    row = observer.measure(Minibatch(p.model, p.x, p.y, loss=p.loss), taken)
    return {name: row.get(name) for name in (*NAMES, "preactivation_change")}


def move(model: HomogeneousMLP, by: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for W in model.parameters():
            W += by * torch.randn(W.shape, generator=generator, dtype=W.dtype)


def features(p: Problem, weights: list[Tensor]) -> list[Tensor]:
    h = [p.x]
    for k, (layer, W) in enumerate(zip(p.model.scaled_layers[:-1], weights, strict=False), start=1):
        h.append(p.model.activation_at(k).value(layer.multiplier * h[-1] @ W.T))
    return h


@pytest.mark.parametrize(
    ("activation", "rank"), [("relu", None), ((0.3, 0.8), None), ("tanh", None), ("gelu", None), ("tanh", 2)]
)
@pytest.mark.parametrize("chunk", [3, 100])
def test_changes_are_those_of_dense_weights_and_of_the_jacobian(
    activation: object, rank: int | None, chunk: int
) -> None:
    p = make_problem(samples=8, base_width=4, activation=activation, rank=rank)
    first = {name: W.clone() for name, W in parameters(p.model).items()}
    z_0 = preactivations(Minibatch(p.model, p.x, p.y, loss=p.loss))
    observer = observer_of(p, chunk=chunk)
    start = measured(observer, p)
    assert start["linearisation_distance"] is None
    assert start["change_by_weights"] == start["change_by_features"] == [0.0] * p.model.depth
    move(p.model)
    found, now = measured(observer, p), parameters(p.model)
    V = {name: now[name] - W for name, W in first.items()}
    f_0, linear = jvp(lambda w: functional_call(p.model, w, (p.x,)), (first,), (V,))
    change = functional_call(p.model, now, (p.x,)) - f_0
    assert found["linearisation_distance"] == pytest.approx(
        float((change - linear).norm() / change.norm()), rel=1e-9
    )
    h, h_0 = features(p, list(now.values())), features(p, list(first.values()))
    for k, (layer, z) in enumerate(zip(p.model.scaled_layers, z_0, strict=True)):
        W_0, own = list(first.values())[k], list(V.values())[k]
        by_weights = layer.multiplier * h[k] @ own.T
        by_features = layer.multiplier * (h[k] - h_0[k]) @ W_0.T
        assert found["change_by_weights"][k] == pytest.approx(float(by_weights.norm() / z.norm()), rel=1e-9)
        wanted = float(by_features.norm() / z.norm())
        assert found["change_by_features"][k] == pytest.approx(wanted, rel=1e-9, abs=1e-15)
        total = float((by_weights + by_features).norm() / z.norm())
        assert found["preactivation_change"][k] == pytest.approx(total, rel=1e-9)


def test_what_did_not_begin_with_the_weights_of_the_seed_is_null_and_said() -> None:
    said: list[str] = []
    p = make_problem()
    observer = observer_of(p)
    measured(observer, p)
    state = observer.state_dict()
    move(p.model)
    wanted = measured(observer, p)
    late = observer_of(p, say=said.append)
    assert [measured(late, p)[name] for name in NAMES] == [None] * 3
    assert len(said) == 1
    again = observer_of(p)
    again.load_state_dict(state)
    assert measured(again, p) == wanted
    without = observer_of(p)
    without.load_state_dict({})
    assert [measured(without, p)[name] for name in NAMES] == [None] * 3


@pytest.mark.usefixtures("fresh_world")
def test_a_run_begins_with_the_weights_of_its_seed_and_keeps_them_over_a_resume() -> None:
    small = [
        "--model.depth=3", "--model.base_width=4", "--optim.steps=4", "--run.log_every=1", "--run.name=a",
        "--diagnostics.every=2", "--diagnostics.quantities=[from_start]", "--diagnostics.sharpness=false",
        "--checkpoint.every_steps=2",
    ]  # fmt: skip
    assert main(small) == 0
    whole = [row for row in read_metrics("runs/a/metrics.jsonl") if "change_by_weights" in row]
    assert [row["step"] for row in whole] == [0, 2]
    assert whole[1]["linearisation_distance"] > 0
    assert main([*small[:4], "--run.name=b", "--run.resume=runs/a/checkpoints/step-2", *small[5:]]) == 0
    again = [row for row in read_metrics("runs/b/metrics.jsonl") if "change_by_weights" in row]
    for one, other in zip(whole, again, strict=True):
        assert {name: one[name] for name in NAMES} == {name: other[name] for name in NAMES}
