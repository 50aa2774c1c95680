"""What README tells a newcomer to type works."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from accelerate.state import AcceleratorState

from scaled_sgd.cli import main
from tests.launching import REPOSITORY, environment

TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CONSOLE = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def commands() -> list[str]:
    joined = "\n".join(CONSOLE).replace("\\\n", " ")
    return [line[2:].split("  #")[0].split("    #")[0] for line in joined.splitlines() if line[:2] == "$ "]


def run(command: str, cwd: Path) -> str:
    """The output of a command, with the scripts of the environment under test first on the path."""
    scripts = str(Path(sys.executable).parent)
    variables = environment() | {"PATH": f"{scripts}:/usr/local/bin:/usr/bin:/bin"}
    finished = subprocess.run(command, shell=True, cwd=cwd, env=variables, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def run_here(command: str) -> None:
    """The command ``scaled-sgd`` in this process and its working folder."""
    name, *arguments = shlex.split(command)
    assert name == "scaled-sgd"
    assert main(arguments) == 0


def test_the_first_two_commands_are_make_train_and_make_test():
    assert [command.split()[:2] for command in commands()[:2]] == [["make", "train"], ["make", "test"]]


@pytest.mark.slow
@pytest.mark.skipif(not (Path(sys.prefix) / ".ready").exists(), reason="make has not set this environment up")
@pytest.mark.parametrize("shorter", ["--optim.steps=200", pytest.param("", marks=pytest.mark.full)])
def test_make_train_reaches_95_percent_on_held_out_digits(shorter, tmp_path):
    arguments = f"--run.dir={tmp_path} --run.name=first {shorter}"
    options = f"VENV={sys.prefix} --old-file={sys.prefix}/.ready ARGS='{arguments}'"
    printed = run(f"{commands()[0]} {options}", REPOSITORY)
    summary = json.loads((tmp_path / "first/summary.json").read_text())
    assert summary["world_size"] == 2
    assert summary["accuracy"] >= 0.95
    for line in ("train loss", "eval loss", "accuracy", "steps", "run directory"):
        assert line in printed


@pytest.mark.usefixtures("fresh_world")
@pytest.mark.slow
def test_the_recipe_for_new_data_is_followed_in_five_lines(tmp_path, capsys):
    from benchmarks.tables import houses

    rows = houses(60).rename(columns={"target": "price"})
    rows.to_csv("houses.csv", index=False)
    rows.to_csv("unseen.csv", index=False)
    first = next(i for i, command in enumerate(commands()) if "houses.csv" in command)
    for command in commands()[first : first + 5]:
        AcceleratorState._reset_state(reset_partial_state=True)
        plain = "--model.depth 2 --model.base_width 4 --optim.steps 3" if "houses.csv" in command else ""
        shorter = command.replace("--optim.steps 2000", "--optim.steps 6")
        run_here(f"{shorter} {plain}")
    assert {path.name for path in Path("runs").iterdir()} == {"plain", "calm", "long"}
    assert capsys.readouterr().out.splitlines()[-1].startswith("r2 ")


@pytest.mark.slow
@pytest.mark.full
def test_the_launch_command_trains(tmp_path):
    (command,) = (command for command in commands() if command.startswith("accelerate launch"))
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    run(f"{command} --optim.steps=3 --run.name=deep", tmp_path)
    summary = json.loads((tmp_path / "runs/deep/summary.json").read_text())
    assert len(summary["widths"]) == 9


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_world")
def test_the_command_for_own_data_trains(tmp_path, capsys):
    (command,) = (command for command in commands() if "animals" in command)
    table = pd.DataFrame({"height": [1.0, 2.0] * 20, "weight": [2.0, 1.0] * 20, "species": ["a", "b"] * 20})
    table.to_parquet(tmp_path / "animals.parquet")
    run_here(command)
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.full
def test_the_command_with_resume_goes_on_where_it_was(tmp_path):
    (command,) = (command for command in commands() if "--run.resume" in command)
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    for _ in range(2):
        run(f"{command} --optim.steps=5", tmp_path)
        summary = json.loads((tmp_path / "runs/wide/summary.json").read_text())
        assert (summary["strategy"], summary["world_size"], summary["status"]) == ("fsdp2", 2, "finished")
    steps = [json.loads(line)["step"] for line in (tmp_path / "runs/wide/metrics.jsonl").open()]
    assert steps == [0, 5]


@pytest.mark.slow
def test_the_library_by_hand_takes_fifteen_lines_and_learns(capsys):
    code = PYTHON[0]
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 16
    exec(compile(code, "by_hand.py", "exec"), {})
    loss = float(capsys.readouterr().out.split()[0])
    assert loss < 0.5 * math.log(10)


def test_the_diagnostics_by_hand_run(capsys):
    exec(compile(PYTHON[1], "by_hand.py", "exec"), {})
    assert "True" in capsys.readouterr().out


@pytest.mark.usefixtures("fresh_world")
@pytest.mark.slow
def test_the_command_with_diagnostics_records_them(tmp_path):
    (command,) = (command for command in commands() if "--diagnostics.every" in command)
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    run_here(f"{command} --optim.steps=1 --run.name=seen")
    assert "edge_ratio" in (tmp_path / "runs/seen/metrics.jsonl").read_text()


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_every_link_of_the_documentation_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.usefixtures("unseen_pictures")
def test_the_study_commands_end_in_a_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    for command in (command for command in commands() if command.startswith("scaled-sgd study")):
        run_here(command)
    assert (tmp_path / "studies/smoke/report.html").stat().st_size > 10_000


def test_every_relative_link_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (REPOSITORY / target).exists(), target
