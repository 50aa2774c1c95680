import pytest
import torch
from torch.nn.functional import cross_entropy

from scaled_sgd import HomogeneousMLP, ScaledSGD
from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.runs.records import read_metrics
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
        observer = Observer(DiagnosticsConfig(every=1), model, x, y, loss="cross_entropy")
        minibatch = Minibatch(model, x, y, loss="cross_entropy")
        scales = optimizer.scaling.direction(minibatch.statistics).numbers
        predicted = observer.measure_step(minibatch, scales=scales, lr=lr)["predicted_loss"]
        cross_entropy(model(x), y).backward()
        optimizer.step()
        errors.append(abs(cross_entropy(model(x), y).item() - predicted))
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.15)


def test_the_probe_gives_the_eigenvalues_of_the_hessian_and_starts_from_the_last_ones():
    model, x, y = problem()
    config = DiagnosticsConfig(every=1, k=2, tolerance=1e-9)
    observer = Observer(config, model, x, y, loss="cross_entropy")
    scales = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
    row = observer.measure_probe(scales=scales, lr=0.7)
    problem_here = Problem(model, x, y, "cross_entropy")
    plain = torch.linalg.eigvalsh(full_hessian(problem_here))[-2:].flip(0)
    scaled = torch.linalg.eigvalsh(full_hessian(problem_here, scales))[-2:].flip(0)
    assert row["eigenvalues"] == pytest.approx(plain.tolist(), rel=1e-7)
    assert row["preconditioned_eigenvalues"] == pytest.approx(scaled.tolist(), rel=1e-7)
    assert row["edge_ratio"] == pytest.approx(0.35 * scaled[0].item(), rel=1e-7)
    assert row["features"]["drift"] == [0.0, 0.0, 0.0]
    again = Observer(config, model, x, y, loss="cross_entropy")
    again.load_state_dict(observer.state_dict())
    assert again.measure_probe(scales=scales, lr=0.7) == observer.measure_probe(scales=scales, lr=0.7)


def test_a_run_records_diagnostics_at_their_steps_and_none_when_they_are_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [
        "--model.depth=3",
        "--model.base_width=6",
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
