"""Code that only a stored configuration names does not run unless it is accepted; names are plain."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState

from scaled_sgd.core.errors import UserError
from scaled_sgd.runs.revision import git_revision
from scaled_sgd.study.command import main as study
from scaled_sgd.study.execution.submission import Submission, submit
from scaled_sgd.study.options import checked_parameters, make_parser
from scaled_sgd.train.main import main
from tests.faults.cases import QUICK

STUDY = {
    "base": {"model": {"depth": 2, "base_width": 2}, "optim": {"steps": 2}},
    "axes": [{"optim.lr": [1.0]}],
}


@pytest.fixture(autouse=True)
def foreign(monkeypatch):
    """A module that leaves a trace when it is imported."""
    Path("modules").mkdir()
    for name in ("foreign_plugin", "foreign_metric"):
        Path(f"modules/{name}.py").write_text(f"open({name!r}, 'w').close()\n")
    monkeypatch.syspath_prepend("modules")
    monkeypatch.delitem(__import__("sys").modules, "foreign_plugin", raising=False)


def train(*arguments):
    status = main([*QUICK, *arguments])
    AcceleratorState._reset_state(reset_partial_state=True)
    return status


def change(path, **values):
    """Put keys of ``run``, or of another section, into a stored configuration."""
    config = yaml.safe_load(path.read_text())
    config[values.pop("section", "run")] |= values
    path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ({"plugins": ["foreign_plugin"]}, "foreign_plugin"),
        ({"metrics": ["modules/foreign_metric.py"]}, "modules/foreign_metric.py"),
        ({"metrics": ["accuracy", "modules/foreign_metric.py"], "accept_code": ["modules/foreign_metric.py"]},
         "modules/foreign_metric.py"),
    ],
)  # fmt: skip
def test_code_that_only_the_folder_names_is_named_and_not_run(stored, name, capsys):
    assert train("--run.dir=.", "--run.name=run") == 0
    change(Path("run/config.yaml"), **stored)
    assert train("--run.resume=run") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: run.{next(iter(stored))}: {name!r} is code that only the stored ")
    assert line.endswith("or named in run.accept_code")
    assert not Path("foreign_plugin").exists()
    assert not Path("foreign_metric").exists()


@pytest.mark.parametrize("metrics", [[{}], [["accuracy"]], [3]])
def test_stored_metrics_that_are_no_names_are_refused(metrics, capsys):
    assert train("--run.dir=.", "--run.name=run") == 0
    change(Path("run/config.yaml"), metrics=metrics)
    assert train("--run.resume=run") == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: run.metrics: ")


def test_the_path_of_an_optimizer_is_code_too_unless_it_is_of_torch(capsys):
    lines = []
    for name in ("foreign_plugin.Optimizer", "torch.optim.RMSprop"):
        assert train(f"--run.dir={name}", "--run.name=run") == 0
        change(Path(f"{name}/run/config.yaml"), section="optim", optimizer=name)
        capsys.readouterr()
        train(f"--run.resume={name}/run")
        lines.append(capsys.readouterr().err)
    assert "optim.optimizer: 'foreign_plugin.Optimizer' is code that only the stored " in lines[0]
    assert "is code" not in lines[1]
    assert not Path("foreign_plugin").exists()


@pytest.mark.parametrize(
    "given", ["--run.accept_code=[foreign_plugin]", "--run.plugins=[foreign_plugin]", "--config=mine.yaml"]
)
def test_code_that_the_user_names_or_accepts_runs(given):
    Path("mine.yaml").write_text("run: {plugins: [foreign_plugin]}\n")
    assert train("--run.dir=.", "--run.name=run") == 0
    change(Path("run/config.yaml"), plugins=["foreign_plugin"])
    assert train("--run.resume=run", given) == 0
    assert Path("foreign_plugin").exists()
    assert yaml.safe_load(Path("run/config.yaml").read_text())["run"]["accept_code"] == []


def test_a_command_with_code_of_its_own_resumes_as_often_as_it_is_repeated():
    command = ("--run.plugins=[foreign_plugin]", "--run.name=mine", "--run.resume=auto")
    assert train(*command) == 0
    assert train(*command) == 0


def test_the_file_in_the_folder_of_a_study_is_foreign_and_a_file_of_the_user_is_not(capsys):
    named = {**STUDY, "base": STUDY["base"] | {"run.plugins": ["foreign_plugin"]}}
    folder = Path("studies/foreign")
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(named))
    (folder / "plan.jsonl").write_text("")
    for command in (["run", "--dry-run", str(folder)], ["run", "--dry-run", str(folder / "study.yaml")],
                    ["report", str(folder)]):  # fmt: skip
        assert study(command) == 2
        assert "error: run.plugins: 'foreign_plugin' is code that only" in capsys.readouterr().err
    assert not Path("foreign_plugin").exists()
    assert study(["run", str(folder), "--dry-run", "--run.accept_code", "[foreign_plugin]"]) == 0
    assert Path("foreign_plugin").exists()
    Path("mine.yaml").write_text(yaml.safe_dump(named))
    assert study(["run", "mine.yaml", "--dry-run"]) == 0


def test_a_study_cannot_accept_its_own_code(capsys):
    Path("mine.yaml").write_text(yaml.safe_dump({**STUDY, "base": {"run.accept_code": ["x"]}}))
    assert study(["run", "mine.yaml", "--dry-run"]) == 2
    assert "error: run.accept_code: it stands in the study's file" in capsys.readouterr().err


def test_a_run_continues_where_it_lies_whatever_its_configuration_says(tmp_path):
    assert train("--run.dir=.", "--run.name=run") == 0
    change(Path("run/config.yaml"), dir=str(tmp_path / "elsewhere"), name="other")
    assert train("--run.resume=run") == 0
    assert train("--run.resume=run", "--run.name=beside") == 0
    assert not (tmp_path / "elsewhere").exists()
    assert Path("beside/summary.json").exists()


@pytest.mark.parametrize("command", ["run", "status", "collect", "report"])
@pytest.mark.parametrize("name", ["../..", "a/b", "..", "", "a\nb", "\x1b[2J"])
def test_the_name_of_a_study_is_one_folder(command, name, capsys):
    Path("mine.yaml").write_text(yaml.safe_dump(STUDY))
    assert study([command, "mine.yaml", "--name", name]) == 2
    assert "error: name: " in capsys.readouterr().err
    assert not Path("studies").exists()


@pytest.mark.parametrize("name", ["../../up", "a/b", "", ".", "-x", "a\nb", 7, None])
def test_an_id_of_a_plan_is_a_plain_name(name, capsys):
    folder = Path("studies/foreign")
    folder.mkdir(parents=True)
    line = {"id": name, "axes": {}, "config": {}}
    (folder / "plan.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    for command in ("status", "collect", "report"):
        assert study([command, str(folder)]) == 2
        assert "is not a plain name" in capsys.readouterr().err


def test_nothing_with_a_line_break_reaches_a_batch_script():
    for pair in ("partition=a\ntouch x", "mem=1\x1b"):
        options = make_parser().parse_args(["run", "x", "--executor=slurm", "--slurm", pair])
        with pytest.raises(UserError, match=r"slurm: .* without control characters"):
            checked_parameters(options)
    folder = Path("studies/z\ntouch x")
    with pytest.raises(UserError, match=r"dir: .* without control characters"):
        submit(Submission("slurm", 1), folder, study, [], [])
    assert not folder.exists()


def test_a_study_whose_folder_has_a_line_break_is_refused(capsys):
    folder = Path("studies/z\ntouch x")
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    (folder / "plan.jsonl").write_text("")
    assert study(["run", str(folder), "--dry-run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def repository(*commands):
    """A repository with a commit of ``f``, whose time stamp has changed since."""
    git = ["git", "-c", "user.email=a@b", "-c", "user.name=a"]
    Path("f").write_text("hi\n")
    for command in (["init", "-q"], ["add", "f"], ["commit", "-qm", "f"], *commands):
        subprocess.run([*git, *command], check=True)
    subprocess.run(["touch", "-d", "yesterday", "f"], check=True)


def test_the_revision_is_the_commit_and_says_whether_files_differ():
    repository()
    commit = git_revision()
    assert commit is not None
    assert len(commit) == 40
    Path("new").write_text("not tracked")
    assert git_revision() == commit
    Path("f").write_text("ho\n")
    assert git_revision() == f"{commit}-dirty"


@pytest.mark.parametrize(
    "planted",
    [{"core.fsmonitor": "touch ran; false"}, {"filter.x.clean": "touch ran; cat"},
     {"filter.a=b.process": "touch ran; cat", "filter.a=b.clean": "touch ran; cat"}],
)  # fmt: skip
def test_the_revision_runs_nothing_that_a_repository_names(planted):
    repository(*(["config", key, value] for key, value in planted.items()))
    Path(".gitattributes").write_text("f filter=x\nf filter=a=b\n" if "core.fsmonitor" not in planted else "")
    hook = Path(".git/hooks/post-index-change")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch ran\n")
    hook.chmod(0o755)
    assert git_revision() is not None
    assert not Path("ran").exists()
    subprocess.run(["git", "status"], check=True, capture_output=True)
    assert Path("ran").exists(), "git itself runs what is planted"
