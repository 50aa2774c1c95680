"""Run directories and studies that an earlier version wrote, as a1b3a8a left them."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from scaled_sgd import load_run
from scaled_sgd.core.errors import UserError
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.study.command import main as study
from scaled_sgd.train.main import main
from tests import replays

FIXTURES = Path(__file__).parent / "fixtures/a1b3a8a"
SAVED, LAST_ROW = 14, 17
ENDS = ("initial_loss", "train_loss", "eval_loss")


def made_here():
    """Whether the kernels of this machine made the fixtures: they decide the last bit of a product."""
    made = json.loads((FIXTURES / "machine.json").read_text())
    cpuinfo = Path("/proc/cpuinfo")
    return (
        made["torch"] == torch.__version__
        and made["instructions"] == torch.backends.cpu.get_cpu_capability()
        and cpuinfo.is_file()
        and made["processor"] in cpuinfo.read_text()
    )


def resume(name, *options):
    """Go on with the run, with the options of its own configuration; its columns and summary."""
    folder = Path("runs") / name
    shutil.copytree(FIXTURES / name, folder)
    assert main(["--config", str(folder / "config.yaml"), "--run.resume=auto", *options]) == 0
    return replays.columns(read_metrics(folder / "metrics.jsonl")), json.loads(
        (folder / "summary.json").read_text()
    )


def whole(name):
    return (
        replays.columns(read_metrics(FIXTURES / f"{name}-whole.jsonl")),
        json.loads((FIXTURES / f"{name}-summary.json").read_text()),
    )


@pytest.mark.usefixtures("fresh_world")
@pytest.mark.parametrize(("name", "tolerance"), [("autograd", 0), ("fused", 1e-12)])
def test_a_run_goes_on_as_if_it_had_never_stopped(name, tolerance, capfd):
    """Bit for bit where steps are autograd's; fused steps add in another order than they did."""
    (found, summary), (wanted, wanted_summary) = resume(name), whole(name)
    assert f"resumed: runs/{name}/checkpoints/step-{SAVED} at step {SAVED} of 24\n" in capfd.readouterr().err
    assert found["step"] == wanted["step"]
    assert len(found["step"]) > LAST_ROW > SAVED
    found |= {name: [summary[name]] for name in ENDS}
    wanted |= {name: [wanted_summary[name]] for name in ENDS}
    difference, where = replays.largest_difference(found, wanted)
    assert difference <= (tolerance if made_here() else 1e-12), where
    facts = ("status", "steps", "widths", "parameters", "data", "seed", "world_size", "strategy")
    assert {key: summary[key] for key in facts} == {key: wanted_summary[key] for key in facts}


def test_a_run_is_loaded_from_its_checkpoint():
    """The pipeline, which it did not store, is that of its data."""
    run = load_run(FIXTURES / "fused")
    assert run.classes == tuple("0123456789")
    assert run.evaluate("digits")["loss"] < whole("fused")[1]["initial_loss"]


def test_a_small_run_of_a_study_has_no_network():
    run = next((FIXTURES / "study/runs").iterdir())
    with pytest.raises(UserError, match=r"no model/ and no checkpoint \(small runs of studies store neither"):
        load_run(run)


@pytest.fixture
def old_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURES / "study", "studies/tiny")
    shutil.copy(FIXTURES / "study.yaml", "tiny.yaml")
    return Path("studies/tiny")


def test_no_run_of_a_study_is_repeated(old_study, capsys):
    """Runs are known by their configurations, whose keys were those of another version."""
    assert study(["run", "tiny.yaml", "--dry-run"]) == 0
    assert "12 runs, 12 ended, 0 small and 0 large to do" in capsys.readouterr().err


@pytest.mark.usefixtures("unseen_pictures")
@pytest.mark.slow
def test_a_study_is_reported(old_study):
    """Its tables have every run at the loss that its summary has."""
    assert study(["report", "tiny.yaml"]) == 0
    head = yaml.safe_load((FIXTURES / "study.yaml").read_text())
    page = (old_study / "report.html").read_text()
    assert head["title"] in page
    assert head["about"] in page
    runs = pd.read_parquet(old_study / "runs.parquet").set_index("id")
    assert len(runs) == 12
    for folder in (FIXTURES / "study/runs").iterdir():
        summary, row = json.loads((folder / "summary.json").read_text()), runs.loc[folder.name]
        assert row["status"] == summary["status"]
        if summary["status"] == "finished":
            assert row["train_loss"] == summary["train_loss"]
            assert row["eval_loss"] == summary["eval_loss"]
