"""Steps of whole runs: fused ones are those of autograd, normalised ones have the length of the rate."""

import math
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from scaled_sgd import HomogeneousMLP
from scaled_sgd.config import DataConfig, flat
from scaled_sgd.data import load_data
from scaled_sgd.runs.checkpoint import open_checkpoint
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.train.main import main
from tests.examples import pairwise

pytestmark = pytest.mark.usefixtures("fresh_world")

SMALL = (
    "--scaling.rule=norm",
    "--model.depth=3", "--model.base_width=4", "--optim.lr=0.5", "--optim.steps=9", "--optim.batch_size=400",
    "--run.log_every=1", "--model.dtype=float64", "--diagnostics.every=8", "--diagnostics.samples=20",
    "--diagnostics.tolerance=1e-3", "--run.eval_every=3",
)  # fmt: skip


def train(name, *options):
    status = main([*SMALL, f"--run.name={name}", *options])
    AcceleratorState._reset_state(reset_partial_state=True)
    return status, list(read_metrics(f"runs/{name}/metrics.jsonl"))


def numbers(row):
    """All but how long things took, and residuals, which are rounding; nan where a quantity is absent."""
    left_out = ("seconds", "sharpness_residuals")
    kept = {key: value for key, value in flat(row).items() if not key.startswith(left_out)}
    return {key: math.nan if value is None else value for key, value in kept.items()}


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--scaling.static=true", "--optim.momentum=0.8", "--optim.weight_decay=0.01"),
        ("--optim.normalize=true", "--scaling.rule=none", "--loss=mse", "--model.activation=abs"),
        ("--optim.clip_norm=0.02", "--scaling.rule=gain", "--model.parameterization=mup"),
        ("--optim.clip_norm=0.02", "--scaling.rule=unit"),
        ("--optim.clip_norm=0.02", "--scaling.rule=spectral", "--optim.momentum=0.5"),
    ],
)
def test_a_fused_run_has_the_numbers_of_one_by_autograd(options):
    _, plain = train("plain", "--optim.update=autograd", *options)
    _, fused = train("fused", "--optim.update=fused", *options)
    for row, other in zip(plain, fused, strict=True):
        assert numbers(other) == pytest.approx(numbers(row), rel=1e-12, abs=1e-14, nan_ok=True)
    assert plain[0]["loss"] > plain[-2]["loss"]


@pytest.mark.parametrize("update", ["fused", "autograd"])
def test_normalised_steps_are_as_long_as_the_rate(update):
    options = ("--optim.normalize=true", "--scaling.rule=none", f"--optim.update={update}")
    train("run", *options, "--optim.steps=1", "--optim.schedule=constant", "--checkpoint.at_end=true")
    checkpoint = open_checkpoint(Path("runs/run/checkpoints/step-1"))
    data = load_data(DataConfig(), seed=0)
    start = HomogeneousMLP(data.in_features, 10, depth=3, base_width=4, seed=0, dtype=torch.float64)
    moved = 0.0
    for k, W in enumerate(start.parameters(), start=1):
        after = checkpoint.read(f"weight.{k}", 0, W.numel()).view_as(W)
        moved += float((after - W.detach()).square().sum())
    assert moved**0.5 == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        ("--optim.normalize=true",),
        ("--optim.clip_norm=0.001",),
        ("--optim.momentum=0.9", "--optim.weight_decay=0.1"),
        ("--optim.momentum=0.9", "--optim.clip_norm=0.1", "--optim.fused_update=true"),
        ("--optim.weight_decay=0.1", "--diagnostics.chunk=150"),
    ],
)
def test_the_predicted_loss_is_that_of_the_step_that_is_taken(options):
    """Of a network in which no activation changes sign."""
    _, rows = train(
        "run",
        *options,
        "--model.activation=linear",
        "--optim.lr=0.01",
        "--scaling.rule=none",
        "--diagnostics.every=1",
        "--diagnostics.sharpness=false",
    )
    for row in (row for row in rows if "taylor" in row):
        change = row["loss_after"] - row["loss"]
        assert change < 0
        assert row["predicted_loss"] - row["loss"] == pytest.approx(change, rel=1e-6)


@pytest.mark.parametrize(
    ("lr", "activation", "loss"),
    pairwise(["1e30", "1e80", "1e160", "1e200"], ["relu", "abs", "[0.9,0.3]"], ["mse", "cross_entropy"]),
)
def test_a_fused_run_that_blows_up_ends_as_that_by_autograd_does(lr, activation, loss, capsys):
    options = (
        f"--optim.lr={lr}",
        "--scaling.rule=none",
        "--diagnostics.sharpness=false",
        f"--model.activation={activation}",
        f"--loss={loss}",
    )
    ends = []
    for update in ("fused", "autograd"):
        status, _ = train(f"run-{update}", *options, f"--optim.update={update}")
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        ends.append((status, [line.replace(f"run-{update}", "run") for line in errors]))
    assert ends[0] == ends[1]
    assert ends[0][0] == 3 or lr == "1e30"
