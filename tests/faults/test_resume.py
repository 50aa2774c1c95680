"""A run resumes in any world and under any strategy, with the numbers of the run that was never stopped."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from scaled_sgd.runs.records import read_metrics
from scaled_sgd.train.main import main
from tests.distributed.test_one_answer import differences
from tests.faults.mutation import make_true
from tests.training import run_all

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_world")]

BASE = (
    "--scaling.rule=norm",
    "--model.depth=4", "--model.base_width=5", "--optim.lr=0.5", "--optim.steps=20", "--optim.batch_size=303",
    "--optim.momentum=0.9", "--optim.weight_decay=0.001", "--optim.schedule=cosine", "--run.log_every=1",
    "--run.eval_every=6", "--checkpoint.every_steps=5", "--checkpoint.keep=9", "--diagnostics.every=6",
    "--diagnostics.samples=23", "--diagnostics.tolerance=1e-6",
)  # fmt: skip
EXACT = [("a", 1, "ddp", None), ("b", 2, "fsdp2", "a/checkpoints/step-5"),
         ("c", 4, "fsdp2+tensor", "b/checkpoints/step-10"), ("d", 2, "tensor", "c/checkpoints/step-15"),
         ("e", 1, "ddp", "c/checkpoints/step-15")]  # fmt: skip
"""Name, processes, strategy and checkpoint of the runs of a chain; step 5 and 10 lie within an epoch."""
ZERO = [("a", 1, "ddp", None), ("b", 2, "zero3", "a/checkpoints/step-5"),
        ("c", 4, "zero1", "b/checkpoints/step-10"),
        ("d", 2, "fsdp2", "c/checkpoints/step-15"), ("e", 2, "zero2", "c/checkpoints/step-15")]  # fmt: skip


@pytest.mark.parametrize(
    ("chain", "dtype", "tolerance"),
    [
        pytest.param(EXACT, "float64", 1e-10, id="native"),
        pytest.param(
            ZERO,
            "float32",
            1e-5,
            id="zero",
            marks=[
                pytest.mark.full,
                pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="needs deepspeed"),
            ],
        ),
    ],
)
def test_a_run_may_change_its_world_and_its_strategy_on_the_way(chain, dtype, tolerance, tmp_path):
    found = []
    for name, processes, strategy, checkpoint in chain:
        resume = () if checkpoint is None else (f"--run.resume=runs/{checkpoint}",)
        # Of the run that is resumed, which stored how its own strategy updates, unless it is given.
        options = (*BASE, f"--model.dtype={dtype}")
        arguments = (*options, f"--sharding.strategy={strategy}", f"--run.name={name}")
        found += run_all([(*arguments, *resume)], processes, where=tmp_path)
    for (name, *_), run in zip(chain, found, strict=True):
        worst = differences(run, found[0])
        assert {figure: error for figure, error in worst.items() if not error <= tolerance} == {}, name
    assert all(torch.isfinite(v).all() for v in found[-1].momentum)


@pytest.mark.parametrize(
    ("strategy", "processes", "options"),
    [
        ("ddp", 3, ("--optim.update=autograd",)),
        ("ddp", 2, ("--optim.update=fused",)),
        ("fsdp2", 2, ()),
        ("tensor", 2, ()),
        ("zero2", 2, ()),
    ],
)
def test_on_the_same_world_a_run_goes_on_bit_for_bit(strategy, processes, options, tmp_path):
    if strategy.startswith("zero") and not importlib.util.find_spec("deepspeed"):
        pytest.skip("needs deepspeed")
    few = ("--optim.steps=13", "--diagnostics.tolerance=1e-2")
    arguments = (*BASE, *few, f"--sharding.strategy={strategy}", *options)
    whole = (*arguments, "--run.name=whole")
    resumed = (*arguments, "--run.name=resumed", "--run.resume=runs/whole/checkpoints/step-10")
    one, other = run_all([whole, resumed], processes, where=tmp_path)
    for row in (*one.rows, *other.rows):
        row.pop("seconds")
    assert other.rows == one.rows
    for kind in ("weights", "momentum"):
        pairs = zip(getattr(one, kind), getattr(other, kind), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


SMALL = (
    "--scaling.rule=norm",
    "--model.depth=3", "--model.base_width=4", "--optim.lr=1", "--optim.steps=6", "--run.name=run",
    "--checkpoint.every_steps=3", "--run.log_every=1", "--optim.batch_size=500",
)  # fmt: skip


NAMED = "allowed: the same, or its name in run.accept_changes"


def train(*arguments):
    status = main([*SMALL, *arguments])
    AcceleratorState._reset_state(reset_partial_state=True)
    return status


def rows(name="run"):
    return [
        {k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(f"runs/{name}/metrics.jsonl")
    ]


def test_auto_without_a_run_starts_one_and_a_finished_run_ends_at_once(capsys):
    assert train("--run.resume=auto") == 0
    first = rows()
    assert train("--run.resume=auto") == 0
    assert rows() == first
    assert "resumed: runs/run/checkpoints/step-6 at step 6 of 6" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_passed_over_and_put_aside(tmp_path, capsys):
    assert train() == 0
    file = tmp_path / "runs/run/checkpoints/step-6/rank-0.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    expected = rows()
    assert train("--run.resume=auto") == 0
    errors = capsys.readouterr().err
    assert "warning: checkpoint: 'runs/run/checkpoints/step-6' is damaged: rank-0.safetensors has " in errors
    assert "resumed: runs/run/checkpoints/step-3 at step 3 of 6" in errors
    assert rows() == expected
    names = sorted(path.name.split("-")[1] for path in (tmp_path / "runs/run/checkpoints").iterdir())
    assert names == ["3", "6", "6.damaged"]


def test_a_run_without_a_checkpoint_starts_over_under_auto(capsys):
    assert train("--checkpoint.at_end=false", "--checkpoint.every_steps=null") == 0
    first = rows()
    assert train("--run.resume=auto") == 0
    assert "run.resume: no checkpoint in 'runs/run'; starting over" in capsys.readouterr().err
    assert rows() == first


def test_the_path_of_a_run_needs_no_other_option(capsys):
    assert train() == 0
    expected = rows()
    assert main(["--run.resume", "runs/run/checkpoints/step-3"]) == 0
    assert rows() == expected


def test_a_checkpoint_brings_its_own_configuration_whatever_became_of_its_run():
    assert train() == 0
    longer = (
        "--optim.steps=9",
        "--run.log_every=2",
        "--run.accept_changes=[optim.steps]",
        "--checkpoint.keep=9",
    )
    assert train(*longer, "--run.resume=auto") == 0
    assert main(["--run.resume=runs/run/checkpoints/step-3", "--run.name=branch"]) == 0
    found = yaml.safe_load(Path("runs/branch/config.yaml").read_text())
    assert (found["optim"]["steps"], found["run"]["log_every"]) == (6, 1)
    assert [row["step"] for row in rows("branch")] == [*range(7)]
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main(["--run.resume=runs/run", "--run.name=later"]) == 0
    assert yaml.safe_load(Path("runs/later/config.yaml").read_text())["optim"]["steps"] == 9


def test_inside_the_folder_of_checkpoints_the_run_is_the_one_around_it(monkeypatch):
    assert train() == 0
    expected = rows()
    monkeypatch.chdir("runs/run/checkpoints")
    assert main(["--run.resume=step-3"]) == 0
    monkeypatch.chdir("../../..")
    assert rows() == expected
    assert sorted(path.name for path in Path("runs").iterdir()) == ["run"]


def test_a_state_of_another_step_than_its_checkpoint_is_passed_over(capsys):
    assert train() == 0
    folder = Path("runs/run/checkpoints/step-6")
    state = json.loads((folder / "state.json").read_text())
    state["progressed"]["step"] = 5
    (folder / "state.json").write_text(json.dumps(state))
    make_true(folder / "state.json")
    assert train("--run.resume=auto") == 0
    shown = capsys.readouterr().err
    assert "step-6' is damaged: progressed.step is 5, its manifest says 6;" in shown
    assert "resumed: runs/run/checkpoints/step-3 at step 3 of 6" in shown


def test_a_branch_leaves_its_origin_alone():
    assert train() == 0
    expected = rows()
    assert train("--run.resume=runs/run/checkpoints/step-3", "--run.name=branch", "--optim.lr=0.5",
                 "--run.accept_changes=[optim.lr]") == 0  # fmt: skip
    assert rows() == expected
    assert rows("branch")[:3] == expected[:3]
    assert rows("branch")[4] != expected[4]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--optim.lr=2"], "optim.lr: 2.0 differs from the checkpoint's 1.0; " + NAMED),
        (["--model.base_width=5", "--run.accept_changes=[model]"],
         "model.base_width: 5 differs from the checkpoint's 4; allowed: the same"),
        (["--data.limit=700"], "data.limit: 700 differs from the checkpoint's None; " + NAMED),
        (["--data.source=parity", "--data.eval_fraction=0.1"],
         "data.source: 'parity' differs from the checkpoint's 'digits'; " + NAMED),
        (["--data.limit=700", "--run.accept_changes=[data.limit]"],
         "data.source: 'digits' has training samples 700, the checkpoint's data 1438; allowed: the same "
         "data, or data.source in run.accept_changes"),
    ],
)  # fmt: skip
def test_a_changed_configuration_is_refused_by_name(arguments, expected, capsys):
    assert train("--checkpoint.every_steps=3") == 0
    assert train("--run.resume=auto", *arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {expected}"


def test_going_back_leaves_the_other_way_behind(tmp_path):
    """Otherwise older checkpoints would be newer in number, and the next resume take the wrong way."""
    assert train("--checkpoint.every_steps=1", "--checkpoint.keep=9") == 0
    back = ("--run.resume=runs/run/checkpoints/step-3", "--optim.lr=0.5", "--checkpoint.every_steps=1")
    assert train(*back, "--run.accept_changes=[optim.lr]", "--checkpoint.keep=1") == 0
    names = sorted(path.name.split(".")[0] for path in (tmp_path / "runs/run/checkpoints").iterdir())
    assert names == ["step-4", "step-5", "step-6", "step-6"]
    expected = rows()
    assert train("--run.resume=auto", "--optim.lr=0.5") == 0
    assert rows() == expected


def test_a_change_is_accepted_once(capsys):
    assert train() == 0
    assert train("--run.resume=runs/run", "--optim.lr=2", "--run.accept_changes=[optim.lr]") == 0
    assert train("--run.resume=runs/run", "--optim.lr=3") == 2
    assert "optim.lr: 3.0 differs from the checkpoint's 1.0" in capsys.readouterr().err


def test_another_probe_starts_its_drift_anew():
    assert train("--diagnostics.every=2", "--diagnostics.samples=20") == 0
    resume = "--run.resume=runs/run/checkpoints/step-3"
    assert train(resume, "--diagnostics.every=2", "--diagnostics.samples=30") == 0
    assert next(row for row in rows() if row["step"] == 4)["features"]["drift"] == [0.0, 0.0]


def test_a_checkpoint_without_its_run_needs_a_name(tmp_path, capsys):
    assert train() == 0
    (tmp_path / "x").mkdir()
    shutil.copytree(tmp_path / "runs/run/checkpoints/step-3", tmp_path / "x/best")
    assert main(["--run.resume=x/best"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: run.resume: 'x/best' is in no run directory; allowed: with run.name"
    )
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["best"]
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train("--run.resume=x/best", "--run.name=named") == 0


def test_a_run_whose_last_update_blows_up_is_not_finished(capsys):
    """No later step could tell."""
    arguments = ["--optim.steps=1", "--optim.lr=1e300", "--model.dtype=float64", "--scaling.rule=none"]
    assert main([*SMALL, *arguments]) == 3
    assert "error: loss: not finite at step 0" in capsys.readouterr().err


def test_accepted_changes_are_said(capsys):
    assert train() == 0
    accepted = "--run.accept_changes=[optim.lr,data]"
    assert train("--run.resume=auto", "--optim.lr=2", "--data.limit=700", accepted) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("resumed: "))
    assert "changed: data.limit None → 700, optim.lr 1.0 → 2.0, data (training samples 1438 → 700)" in line


@pytest.mark.parametrize(
    ("resume", "expected"),
    [
        ("nowhere", "run.resume: no run or checkpoint at 'nowhere'; allowed: no, auto, or the path of a run "
                    "or checkpoint"),
        ("runs/run", "run.resume: 'runs/run' has no intact checkpoint; allowed: a run with one, or no"),
    ],
)  # fmt: skip
def test_a_path_without_a_checkpoint_is_refused(resume, expected, capsys):
    assert train("--checkpoint.at_end=false", "--checkpoint.every_steps=null") == 0
    assert main(["--run.resume", resume]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {expected}"
