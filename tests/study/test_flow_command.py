"""``scaled-sgd flow``: a run's weights followed by three paths, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from scaled_sgd.cli import main
from scaled_sgd.study.flow.problem import flow_problem

SMALL = (
    "--model.depth=2", "--model.base_width=3", "--model.width_exponent=0", "--model.activation=tanh",
    "--scaling.rule=none", "--loss=mse", "--optim.steps=2", "--optim.lr=0.5", "--run.name=small",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *SMALL]) == 0
    return folder


def test_a_run_of_plain_sgd_is_followed_at_its_rate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    short = ["--length=2", "--samples=20", "--eigenvalues=1", "--substeps=1"]
    assert main(["flow", "runs/small", *short]) == 0
    assert "small-flow: flow.jsonl (3 rows), flow.png" in capsys.readouterr().out
    rows = [json.loads(line) for line in (folder / "small-flow/flow.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert {row["lr"] for row in rows} == {0.5}
    first = rows[0]
    assert first["descent"] == first["gradient_flow"]
    assert first["central_flow"]["loss"] == first["descent"]["loss"]
    assert (folder / "small-flow/flow.png").stat().st_size > 1000
    assert main(["flow", "runs/small", *short, "--step=0", "--out=initial"]) == 0
    initial = json.loads((folder / "initial/flow.jsonl").read_text().splitlines()[0])
    assert initial["descent"]["loss"] > first["descent"]["loss"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["runs/none"], "load_run: 'runs/none' is no folder; allowed: a run directory"),
        (["runs/small", "--step=7"], "--step: 7 has no checkpoint in 'runs/small/checkpoints'; allowed: 0"),
        (["runs/small", "--lr=nan"], "argument --lr: 'nan' is no finite number above 0; allowed: see"),
        (["runs/small", "--length=0"], "argument --length: 0 is no integer from 1; allowed: see"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(
    arguments: list[str],
    line: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    assert main(["flow", *arguments]) == 2
    assert line in capsys.readouterr().err


def test_other_data_than_the_runs_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("scaled_sgd.study.flow.problem.data_facts", lambda data: {"digest": "another"})
    assert main(["flow", "runs/small", "--step=0"]) == 2
    assert "error: data.source: 'digits' holds other data than those of 'runs/small'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("rate", [{"lr_in_edges": 0.5}, {"schedule": "edge"}])
def test_a_rate_that_was_measured_is_not_taken_from_the_file(
    rate: dict[str, object], folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "runs/small", run)
    file = run / "config.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert flow_problem(run, step=0, samples=5).lr == 0.5
    config["optim"] |= rate
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert flow_problem(run, step=0, samples=5).lr is None


def test_large_networks_and_scaled_steps_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    wide = ["--model.depth=3", "--model.base_width=400", "--model.width_exponent=0", "--optim.steps=1"]
    assert main(["train", *wide, "--run.name=wide"]) == 0
    assert main(["flow", "runs/wide", "--lr=1"]) == 2
    assert "error: flow: the network has 189,600 weights; allowed: up to 100,000" in capsys.readouterr().err
    assert (
        main(["train", "--model.depth=2", "--model.base_width=3", "--optim.steps=1", "--run.name=scaled"])
        == 0
    )
    assert main(["flow", "runs/scaled"]) == 2
    assert "error: --lr: the steps of the run are not −η∇L" in capsys.readouterr().err
