import json
import math
import os
import signal
import time

import pandas as pd
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from scaled_sgd.cli import main as command
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.train.main import main
from tests.launching import PATIENCE
from tests.programs import Program, finished

pytestmark = pytest.mark.usefixtures("fresh_world")

SMALL = [
    "--scaling.rule=norm",
    "--model.depth=4",
    "--model.base_width=8",
    "--model.activation=abs",
    "--model.dtype=float64",
    "--optim.lr=3",
]


def rows(name):
    return list(read_metrics(f"runs/{name}/metrics.jsonl"))


def test_a_run_learns_digits_and_leaves_its_records(tmp_path, capsys):
    network = ["--model.base_width=8", "--model.activation=abs"]
    assert main([*network, "--optim.steps=150", "--run.name=first"]) == 0
    summary = json.loads((tmp_path / "runs/first/summary.json").read_text())
    assert summary["accuracy"] > 0.9
    assert summary["widths"] == [64, 8, 32, 72, 128, 200, 10]
    assert summary["world_size"] == 1
    printed = capsys.readouterr().out
    for line in ("train loss", "eval loss", "accuracy", "run directory  runs/first"):
        assert line in printed
    records = rows("first")
    assert [row["step"] for row in records] == sorted(row["step"] for row in records)
    assert records[0]["loss"] == pytest.approx(math.log(10), rel=0.01)
    assert records[-1]["eval_loss"] == summary["eval_loss"]
    logged = [row for row in records if "loss" in row]
    assert {"step", "epoch", "samples", "lr", "loss", "grad_norm", "seconds", "scales"} <= set(logged[0])
    assert len(logged[0]["scales"]) == 6
    config = yaml.safe_load((tmp_path / "runs/first/config.yaml").read_text())
    assert config["model"]["base_width"] == 8
    assert config["scaling"]["rule"] == "spectral"


def test_a_run_can_be_repeated_from_its_own_configuration():
    assert main([*SMALL, "--optim.steps=12", "--run.log_every=1", "--run.name=first"]) == 0
    assert main(["--config=runs/first/config.yaml", "--run.name=second"]) == 0
    for first, second in zip(rows("first"), rows("second"), strict=True):
        first.pop("seconds")
        second.pop("seconds")
        assert first == second


@pytest.mark.slow
def test_accumulation_does_not_change_the_steps():
    losses = []
    for accumulation in (1, 3):
        arguments = [*SMALL, "--optim.steps=12", "--run.log_every=1", f"--run.name=a{accumulation}"]
        assert main([*arguments, f"--optim.accumulation={accumulation}", "--optim.clip_norm=0.005"]) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
        losses.append([row["loss"] for row in rows(f"a{accumulation}") if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.slow
def test_a_table_of_classes_trains_with_three_flags(tmp_path):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(300, 3, generator=generator).numpy()
    table = pd.DataFrame(points, columns=["height", "weight", "age"])
    table["species"] = ["newt" if x > y else "toad" for x, y in zip(points[:, 0], points[:, 1], strict=True)]
    table.to_parquet(tmp_path / "animals.parquet")
    arguments = ["--data.source=animals.parquet", "--data.target=species", "--optim.epochs=30"]
    assert main([*arguments, "--run.name=animals", "--model.base_width=8", "--optim.batch_size=64"]) == 0
    assert json.loads((tmp_path / "runs/animals/summary.json").read_text())["accuracy"] > 0.9


@pytest.mark.slow
def test_number_targets_are_fitted_by_mean_squared_error(tmp_path):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(400, 4, generator=generator)
    points /= points.norm(dim=1, keepdim=True)
    table = pd.DataFrame(points.numpy(), columns=list("abcd"))
    table["y"] = (points[:, 0] - 0.5 * points[:, 1]).numpy()
    table.to_csv(tmp_path / "line.csv", index=False)
    arguments = ["--data.source=line.csv", "--data.target=y", "--optim.steps=200", "--optim.batch_size=80"]
    options = ["--run.name=line", "--model.base_width=8", "--optim.lr=2"]
    options += ["--data.standardize_target=false", "--model.depth=3"]
    assert main([*arguments, *options]) == 0
    summary = json.loads((tmp_path / "runs/line/summary.json").read_text())
    assert summary["mse"] == pytest.approx(2 * summary["eval_loss"], rel=1e-4)
    assert summary["mse"] < 0.1 * table["y"].var()


def test_classes_can_be_fitted_by_mean_squared_error():
    assert main([*SMALL, "--loss=mse", "--optim.steps=60", "--run.name=mse"]) == 0
    first, *_, last = rows("mse")
    assert first["loss"] == pytest.approx(0.5, rel=0.3)
    assert last["accuracy"] > 0.5


def test_a_run_that_diverges_stops_with_status_three_and_names_the_layer(capsys, tmp_path):
    arguments = ["--optim.lr=1e9", "--scaling.rule=none", "--model.parameterization=sp", "--optim.steps=50"]
    assert main([*SMALL, *arguments, "--run.name=boom", "--run.log_every=1"]) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: loss: not finite at step ")
    assert "first in layer 3 of 4" in error
    summary = json.loads((tmp_path / "runs/boom/summary.json").read_text())
    assert (summary["status"], summary["layer"]) == ("diverged", 3)
    records = rows("boom")
    assert records[-1]["loss"] is None
    assert all(row["loss"] is not None for row in records[:-1])


def test_a_run_that_diverges_in_its_last_steps_does_not_end_well(capsys):
    """No step is logged after the first, so only the end can tell."""
    arguments = ["--optim.lr=1e9", "--scaling.rule=none", "--model.parameterization=sp", "--optim.steps=9"]
    assert main([*SMALL, *arguments, "--run.name=late", "--run.eval_every=0"]) == 3
    assert "error: loss: not finite at step " in capsys.readouterr().err


def test_runs_without_a_name_get_different_folders(tmp_path):
    for _ in range(2):
        assert main([*SMALL, "--optim.steps=1"]) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_the_written_configuration_is_the_resolved_one(tmp_path):
    assert main([*SMALL, "--optim.epochs=0.5", "--run.name=resolved"]) == 0
    config = yaml.safe_load((tmp_path / "runs/resolved/config.yaml").read_text())
    assert config["loss"] == "cross_entropy"
    assert config["optim"]["steps"] == 3
    assert config["run"]["metrics"] == ["accuracy"]


def test_samples_count_every_row_seen():
    assert main([*SMALL, "--optim.epochs=2", "--run.log_every=1", "--run.name=seen"]) == 0
    seen = {row["step"]: row["samples"] for row in rows("seen") if "samples" in row}
    assert seen[6] == 1438
    assert seen[7] == 1438 + 256


def test_columns_that_are_not_used_are_named(tmp_path, capsys):
    table = pd.DataFrame(
        {"a": [1.0, 2.0] * 30, "b": [f"no. {i}" for i in range(60)], "label": ["x", "y"] * 30}
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    assert main(["--data.source=t.csv", "--optim.steps=2", "--run.name=t", "--model.depth=2"]) == 0
    line = "data: 48 training and 12 held-out samples; inputs a (left out: b); target label, 2 classes: x, y"
    assert line in capsys.readouterr().err
    assert json.loads((tmp_path / "runs/t/summary.json").read_text())["data"]["left_out"] == ["b"]


def test_layers_that_do_not_move_are_said(capsys):
    dead = ("--optim.lr=300", "--loss=mse", "--model.activation=relu", "--optim.steps=6", "--run.log_every=1")
    assert main([*SMALL, *dead]) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "get no gradient" in line]
    assert len(warned) == 1
    assert warned[0].startswith("warning: layers ")


def test_a_loss_that_ends_above_its_start_is_pointed_out(capsys):
    assert main([*SMALL, "--optim.steps=30", "--optim.lr=3000", "--run.name=high"]) == 0
    assert "warning" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.full)]
)
def test_an_interrupted_run_ends_in_one_line(number, status, tmp_path):
    options = ("--optim.steps=1000000000", "--run.name=long")
    run = Program("-m", "scaled_sgd.train", *SMALL, *options, cwd=tmp_path)
    metrics = tmp_path / "runs/long/metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size > 1000):
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(number)
    _, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == status
    assert errors.splitlines()[-1].startswith("interrupted: ")
    assert "Traceback" not in errors


@pytest.mark.parametrize("option", ["--optim.steps=1", "--optim.lr=-1"])
def test_signals_are_afterwards_what_they_were(option):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    main([*SMALL, "--run.name=once", option])
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert after == before


def test_an_existing_run_is_refused(capsys):
    assert main([*SMALL, "--optim.steps=1", "--run.name=once"]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main([*SMALL, "--optim.steps=1", "--run.name=once"]) == 2
    assert "run.name: 'runs/once' exists already" in capsys.readouterr().err


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="no file or folder"):
        main(["--data.source=none.csv", "--debug"])


def test_tensorboard_gets_the_metrics_in_groups(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*SMALL, "--optim.steps=3", "--run.trackers=[tensorboard]", "--run.name=seen"]) == 0
    found = set()
    for file in (tmp_path / "runs/seen").rglob("events.out.tfevents.*"):
        found |= set(EventAccumulator(str(file)).Reload().Tags()["scalars"])
    assert {"loss", "scales/1", "scales/2", "minibatch_soft_ranks/1"} <= found


@pytest.mark.parametrize("update", [pytest.param("autograd", marks=pytest.mark.slow), "fused"])
def test_bfloat16_trains(update):
    options = ["--run.precision=bf16", "--optim.steps=90", "--model.base_width=8", "--run.name=bf16"]
    options.append(f"--optim.update={update}")
    assert main([*options, "--optim.lr=6", "--model.depth=4", "--model.activation=abs"]) == 0
    assert rows("bf16")[-1]["accuracy"] > 0.8


def test_a_launcher_that_started_one_process_instead_of_several_is_seen_through(monkeypatch, capsys):
    """What accelerate launch --cpu --num_processes 2 leaves in the environment of its only process."""
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert main(["--run.name=lie"]) == 2
    assert "launch: several processes were asked for and one was started" in capsys.readouterr().err
    assert not os.path.exists("runs")


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        ([], 2, "usage: scaled-sgd COMMAND"),
        (["--help"], 0, "usage: scaled-sgd COMMAND"),
        (["--version"], 0, "scaled-sgd 0."),
    ],
)
def test_the_command_explains_itself(arguments, status, expected, capsys):
    assert command(arguments) == status
    captured = capsys.readouterr()
    assert expected in captured.out + captured.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["--optim.steps=2", "--run.name=both"], 0, ""),
        pytest.param(
            ["--data.source=none.csv"],
            2,
            "error: data.source: no file or folder 'none.csv'",
            marks=pytest.mark.full,
        ),
        (["--optim.steps=0"], 2, "error: optim.steps: 0 is not usable; allowed: integers from 1, or null"),
    ],
)
def test_the_command_starts_processes_and_passes_on_their_status(arguments, status, expected, tmp_path):
    words = ("-m", "scaled_sgd.cli", "train", "--run.processes=2", *SMALL, *arguments)
    started = finished(*words, cwd=tmp_path)
    assert started.returncode == status
    lines = started.stderr.splitlines()
    errors = [line for line in lines if not line.startswith(("step ", "data: "))]
    assert "\n".join(errors).startswith(expected)
    assert "Traceback" not in started.stderr
    if status == 0:
        assert json.loads((tmp_path / "runs/both/summary.json").read_text())["world_size"] == 2
    else:
        assert len(errors) == 1


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (
            ("--scaling.rule=spectral", "--optim.accumulation=2"),
            "'spectral' by autograd orthogonalises whole",
        ),
        (("--optim.optimizer=adamw", "--optim.lr=0.01"), "'norm' does next to nothing with optim.optimizer"),
    ],
)
def test_a_rule_that_costs_much_or_does_little_is_warned_of(options, warning, capsys):
    assert main([*SMALL, "--optim.steps=1", *options]) == 0
    assert f"warning: scaling.rule: {warning}" in "".join(capsys.readouterr())
