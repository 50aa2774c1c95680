import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from scaled_sgd import HomogeneousMLP, ScaledSGD
from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics import Minibatch, hidden_features
from scaled_sgd.diagnostics import observer as observing
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.registry import QUANTITIES, Column, Measured
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.runs.checkpoint import open_checkpoint
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.steps import minibatch as steps_minibatch
from scaled_sgd.steps.direction import Direction
from scaled_sgd.train.main import main
from tests.oracles import Problem, full_hessian


def problem():
    model = HomogeneousMLP(6, 3, depth=4, base_width=3, activation="abs", seed=0, dtype=torch.float64)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model, x, torch.arange(9) % 3


@pytest.mark.parametrize("rule", ["none", "norm", "gain", "kernel"])
@pytest.mark.parametrize("static", [False, True])
def test_the_scales_foreseen_are_those_the_step_uses(rule, static):
    model, x, y = problem()
    optimizer = ScaledSGD(model, 0.1, rule=rule, static=static)
    for _ in range(3):
        statistics = Minibatch(model, x, y, loss="cross_entropy").statistics
        expected = optimizer.scaling.direction(statistics).numbers
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        torch.testing.assert_close(optimizer.scales, expected, rtol=1e-12, atol=0)


def test_the_predicted_loss_is_that_of_the_step_to_fourth_order():
    """Halving a small step must shrink the error of the cubic prediction sixteenfold."""
    errors = []
    for lr in (0.02, 0.01):
        model, x, y = problem()
        optimizer = ScaledSGD(model, lr)
        config = DiagnosticsConfig(every=1, sharpness=False, ranks=False)
        observer = Observer(config, model, x, y, loss="cross_entropy")
        minibatch = Minibatch(model, x, y, loss="cross_entropy")
        direction = optimizer.scaling.direction(minibatch.statistics)
        predicted = observer.measure(minibatch, StepTaken(direction, lr))["predicted_loss"]
        cross_entropy(model(x), y).backward()
        optimizer.step()
        errors.append(abs(cross_entropy(model(x), y).item() - predicted))
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.15)


def test_the_probe_gives_the_eigenvalues_of_the_hessian_and_starts_from_the_last_ones():
    model, x, y = problem()
    config = DiagnosticsConfig(every=1, k=2, tolerance=1e-9)
    observer = Observer(config, model, x, y, loss="cross_entropy")
    scales = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
    minibatch = Minibatch(model, x, y, loss="cross_entropy")
    row = observer.measure(minibatch, StepTaken(Direction(scales), 0.7))
    problem_here = Problem(model, x, y, "cross_entropy")
    plain = torch.linalg.eigvalsh(full_hessian(problem_here))[-2:].flip(0)
    scaled = torch.linalg.eigvalsh(full_hessian(problem_here, scales))[-2:].flip(0)
    assert row["eigenvalues"] == pytest.approx(plain.tolist(), rel=1e-7)
    assert row["preconditioned_eigenvalues"] == pytest.approx(scaled.tolist(), rel=1e-7)
    assert row["edge_ratio"] == pytest.approx(0.35 * scaled[0].item(), rel=1e-7)
    assert row["edge"] == pytest.approx(2 / 0.7)
    assert row["features"]["drift"] == [0.0, 0.0, 0.0]
    assert row["preactivation_change"] == [0.0, 0.0, 0.0, 0.0]
    again = Observer(config, model, x, y, loss="cross_entropy")
    again.load_state_dict(observer.state_dict())
    taken = StepTaken(Direction(scales), 0.7)
    assert again.measure(minibatch, taken) == observer.measure(minibatch, taken)


def observed(config, lr=0.5, direction=None, *, rows=1, say=None, state=None):
    """The observer and its rows before some steps of plain SGD."""
    model, x, y = problem()
    observer = Observer(config, model, x, y, loss="cross_entropy", say=say)
    if state is not None:
        observer.load_state_dict(state)
    found = []
    for _ in range(rows):
        minibatch = Minibatch(model, x, y, loss="cross_entropy")
        ones = torch.ones(4, dtype=torch.float64)
        found.append(observer.measure(minibatch, StepTaken(direction or Direction(ones), lr)))
        model.zero_grad()
        cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= lr * p.grad
    return observer, found


def test_one_search_serves_both_sharpnesses_where_all_scales_are_one():
    _, (row,) = observed(DiagnosticsConfig(every=1))
    assert row["sharpness"] == row["preconditioned_sharpness"]
    assert row["sharpness_residuals"][0] == row["sharpness_residuals"][1]


def test_what_a_matrix_direction_does_not_define_is_null_and_said_once():
    said = []
    K = torch.eye(9, dtype=torch.float64)
    direction = Direction(torch.ones(4, dtype=torch.float64), [K] * 4)
    _, rows = observed(DiagnosticsConfig(every=1, k=2), direction=direction, rows=2, say=said.append)
    _, plain = observed(DiagnosticsConfig(every=1, k=2), rows=2)
    for row, same in zip(rows, plain, strict=True):
        absent = ("preconditioned_sharpness", "preconditioned_eigenvalues", "edge_ratio", "edge")
        assert [row[name] for name in absent] == [None] * 4
        assert row["taylor"] == pytest.approx(same["taylor"], rel=1e-12)
        assert row["directional_edge_ratio"] == pytest.approx(same["directional_edge_ratio"], rel=1e-12)
        assert row.keys() == same.keys()
    assert len([line for line in said if line.startswith("preconditioned_sharpness, edge_ratio: null")]) == 1


@pytest.mark.parametrize("samples", [9, 30])
def test_drift_is_that_of_kernels_whichever_side_is_smaller(samples):
    model = HomogeneousMLP(6, 3, depth=4, base_width=3, activation="abs", seed=0, dtype=torch.float64)
    x = torch.randn(samples, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.arange(samples) % 3
    config = DiagnosticsConfig(every=1, taylor=False, sharpness=False)
    observer = Observer(config, model, x, y, loss="cross_entropy")
    taken = StepTaken(Direction(torch.ones(4, dtype=torch.float64)), 0.1)

    def measure():
        return observer.measure(Minibatch(model, x, y, loss="cross_entropy"), taken)["features"]

    first = hidden_features(model, x)
    assert measure()["drift"] == [0.0, 0.0, 0.0]
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2), dtype=p.dtype)
    found, now = measure(), hidden_features(model, x)
    drift = [
        float((H @ H.T - H_0 @ H_0.T).norm() / (H_0 @ H_0.T).norm())
        for H, H_0 in zip(now, first, strict=True)
    ]
    assert found["drift"] == pytest.approx(drift, rel=1e-12)
    stable = [float(torch.linalg.svdvals(H).square().sum() / torch.linalg.svdvals(H)[0] ** 2) for H in now]
    assert found["stable"] == pytest.approx(stable, rel=1e-10)


def test_state_that_earlier_versions_stored_is_taken_up():
    """It named start vectors and kernels without the quantity that they are of."""
    config = DiagnosticsConfig(every=1)
    before, _ = observed(config)
    old = {
        name.removeprefix("sharpness.").removeprefix("ranks."): tensor
        for name, tensor in before.state_dict().items()
        if not name.startswith("change.")
    }
    assert {"start.plain", "start.scaled"} <= old.keys()
    old |= {f"kernel.{k}": torch.eye(9, dtype=torch.float64) * k for k in (1, 2, 3)}
    after, (row,) = observed(config, state=old)
    model, x, _ = problem()
    for k, (H, drift) in enumerate(zip(hidden_features(model, x), row["features"]["drift"], strict=True), 1):
        away = torch.eye(9, dtype=torch.float64) * k
        assert drift == pytest.approx(float((H @ H.T - away).norm() / away.norm()), rel=1e-12)
    assert {"sharpness.start.plain", "ranks.kernel.1"} <= after.state_dict().keys()


class Calls:
    """A toy quantity: how often it was measured, and the loss it saw."""

    def __init__(self, config):
        self.calls = torch.zeros(())

    def measure(self, context):
        self.calls += 1
        loss = context.probe.first.loss.value(context.probe.first.f, context.probe.y).mean()
        return {"calls": float(self.calls), "probe_loss": float(loss)}

    def state_dict(self):
        return {"count": self.calls}

    def load_state_dict(self, state):
        self.calls = state.get("count", self.calls)


def test_a_quantity_from_outside_is_measured_and_keeps_its_state_where_it_is_named():
    columns = (Column("calls", "times"), Column("probe_loss", "mean loss of the probe, nats"))
    QUANTITIES.add("calls", Measured(Calls, "calls", columns, ("probe",), cost=0, source="none"))
    try:
        config = DiagnosticsConfig(every=1, taylor=False, sharpness=False, ranks=False)
        assert "calls" not in observed(config)[1][0]
        config.quantities = ["calls"]
        observer, rows = observed(config, rows=2)
        assert [row["calls"] for row in rows] == [1, 2]
        model, x, y = problem()
        assert rows[0]["probe_loss"] == pytest.approx(cross_entropy(model(x), y).item())
        _, (row,) = observed(config, state=observer.state_dict())
        assert row["calls"] == 3
    finally:
        QUANTITIES.remove("calls")
    with pytest.raises(UserError, match=r"^diagnostics\.quantities: 'calls' is unknown; allowed: taylor, "):
        observed(config)


def test_a_run_takes_a_quantity_from_outside_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    QUANTITIES.add("calls", Measured(Calls, "calls", (Column("calls", "times"),), ("probe",), 0, "none"))
    options = ["--model.depth=3", "--model.base_width=4", "--optim.steps=4", "--diagnostics.every=2"]
    options += ["--diagnostics.sharpness=false", "--diagnostics.quantities=[calls]", "--run.name=toy"]
    try:
        assert main([*options, "--checkpoint.at_end=true"]) == 0
    finally:
        QUANTITIES.remove("calls")
    rows = list(read_metrics("runs/toy/metrics.jsonl"))
    assert [row["calls"] for row in rows if "calls" in row] == [1, 2]
    checkpoint = open_checkpoint(Path("runs/toy/checkpoints/step-4"))
    assert float(checkpoint.private(0)["calls.count"]) == 2
    assert main([*options, "--run.name=missing"]) == 2
    assert "error: diagnostics.quantities: 'calls' is not usable; allowed: taylor," in capsys.readouterr().err


def test_rows_have_the_columns_that_the_registry_names():
    model, x, y = problem()
    config = DiagnosticsConfig(every=1, k=2, quantities=list(QUANTITIES))
    observer = Observer(config, model, x, y, loss="cross_entropy", probe_is_all=True)
    batch = Minibatch(model, x, y, loss="cross_entropy")
    taken = StepTaken(Direction(torch.ones(4, dtype=torch.float64)), 0.5)
    row = observer.measure(batch, taken, lambda number: batch)
    named = {column.name for entry in QUANTITIES.entries for column in entry.columns}
    nested = (f"{key}.{name}" for key, value in row.items() if isinstance(value, dict) for name in value)
    assert {*nested, *(key for key in row if not isinstance(row[key], dict))} == named


@pytest.mark.slow
def test_reading_the_registry_needs_no_torch():
    code = "import sys, scaled_sgd.diagnostics.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_records_diagnostics_at_their_steps_and_none_when_they_are_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [
        "--model.depth=3",
        "--model.base_width=6",
        "--scaling.rule=norm",
        "--optim.steps=9",
        "--optim.lr=2",
        "--run.log_every=1",
    ]
    assert main([*small, "--run.name=off"]) == 0
    options = ["--diagnostics.every=4", "--diagnostics.samples=50", "--diagnostics.ranks=false"]
    assert main([*small, *options, "--run.name=on"]) == 0
    off, on = (list(read_metrics(f"runs/{name}/metrics.jsonl")) for name in ("off", "on"))
    measured = {"taylor", "predicted_loss", "loss_after", "sharpness", "edge_ratio"}
    assert [row["step"] for row in on if measured <= set(row)] == [0, 4, 8]
    assert not any(measured & set(row) for row in off)
    assert not any({"soft_ranks", "features"} & set(row) for row in on)
    for row, plain in zip(on, off, strict=True):
        assert row.get("loss") == plain.get("loss")
    for row in on:
        if "taylor" in row:
            assert row["taylor"]["c0"] == pytest.approx(row["loss"], rel=1e-5)
            assert row["predicted_loss"] == pytest.approx(row["loss_after"], rel=0.02)


def test_what_several_quantities_need_of_the_probe_is_computed_once(monkeypatch):
    counts = Counter()

    def counted(module, name):
        function = getattr(module, name)

        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    for name in ("curvature", "gradient_rows"):
        counted(observing, name)
    counted(steps_minibatch, "run_signals")
    model, x, y = problem()
    names = ["subspace", "third_order", "generalized_sharpness", "gauss_newton", "blocks"]
    config = DiagnosticsConfig(every=1, quantities=names)
    observer = Observer(config, model, x, y, loss="cross_entropy", say=lambda _: None)
    minibatch = Minibatch(model, x, y, loss="cross_entropy")
    # Polar steps, whose generalized sharpness needs the probe's gradient too.
    polar = Direction(
        torch.ones(4, dtype=torch.float64), dense=[torch.zeros_like(w) for w in model.parameters()]
    )
    row = observer.measure(minibatch, StepTaken(polar, 0.1, polar=True))
    assert all(row[name] for name in ("gradient_in_subspace", "generalized_sharpness", "feature_sharpness"))
    assert counts == {"run_signals": 2, "curvature": 1, "gradient_rows": 1}
