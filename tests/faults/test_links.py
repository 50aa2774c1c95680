"""Nothing is written or deleted through a link inside the folder of a run or a study."""

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.runs.directory import RunDirectory
from scaled_sgd.study.command import main as study
from scaled_sgd.study.execution.jobs import new_folder
from scaled_sgd.study.folder import StudyFolder
from scaled_sgd.study.page.report import write_report
from scaled_sgd.train.main import main
from scaled_sgd.train.resuming import Start, open_directory
from tests.faults.cases import QUICK
from tests.faults.mutation import state_of
from tests.study.folders import finished, make_study

STUDY = "base: {model: {depth: 2, base_width: 2}, optim: {steps: 2}}\naxes:\n  - optim.lr: [1.0]\n"


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    (folder / "step-1").mkdir(parents=True)
    (folder / "step-1" / "thesis.tex").write_text("precious")
    (folder / "file").write_text("precious\n")
    return folder


@pytest.fixture
def run():
    assert train("--run.dir=.", "--run.name=run", "--checkpoint.every_steps=1") == 0
    return Path("run")


@pytest.fixture
def planned():
    """The folder of a study of one run that has ended, and the run."""
    Path("small.yaml").write_text(STUDY)
    assert study(["run", "small.yaml", "--workers=1"]) == 0
    return Path("studies/small"), next(Path("studies/small/runs").iterdir())


def train(*arguments):
    status = main([*QUICK, *arguments])
    AcceleratorState._reset_state(reset_partial_state=True)
    return status


def linked(path, target):
    """``path``, now a link, moved away if it was there."""
    if path.exists():
        path.rename(path.with_name(f"{path.name}.before"))
    path.symlink_to(target)


def assert_refused(capsys, named):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"{named}: it is a link" in line


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "checkpoints", "model"])
def test_a_run_with_a_link_for_a_file_of_its_own_is_refused(name, run, outside, capsys):
    linked(run / name, outside if name in ("checkpoints", "model") else outside / "file")
    before = state_of(outside)
    for path in ("run", "run/checkpoints/step-2"):
        if Path(path).exists():
            assert train(f"--run.resume={path}") == 2
            assert_refused(capsys, name)
    assert state_of(outside) == before


def test_a_link_for_a_file_that_is_replaced_is_replaced_itself(run, outside):
    linked(run / "summary.json", outside / "file")
    linked(run / "checkpoints/step-1", outside / "step-1")
    before = state_of(outside)
    assert train("--run.resume=run/checkpoints/step-2", "--checkpoint.keep=1") == 0
    assert not (run / "summary.json").is_symlink()
    assert state_of(outside) == before


def test_rows_of_a_linked_file_are_not_copied_into_a_new_run(run, outside, capsys):
    linked(run / "metrics.jsonl", outside / "file")
    assert train("--run.resume=run/checkpoints/step-2", "--run.name=other") == 2
    assert "error: run.resume: cannot read 'run/metrics.jsonl': it is a link" in capsys.readouterr().err
    assert b"precious" not in Path("other/metrics.jsonl").read_bytes()


def test_a_run_directory_that_is_a_link_itself_continues(run):
    run.rename("disk")
    run.symlink_to("disk")
    assert train("--run.resume=run") == 0


def test_trackers_which_follow_links_are_not_started_beside_one(run, outside):
    (run / "scaled_sgd").symlink_to(outside)
    config = parse([*QUICK, "--run.name=run", "--run.trackers=[tensorboard]"])
    directory = RunDirectory(run)
    with pytest.raises(UserError, match=r"run\.trackers: 'run/scaled_sgd' is a link"):
        open_directory(config, Start(directory))
    directory.close()


@pytest.mark.parametrize("name", ["runs", "run", ".lock"])
def test_a_study_with_a_link_for_a_folder_of_its_own_is_refused(name, planned, outside, capsys):
    folder, run = planned
    path = {"runs": folder / "runs", "run": run, ".lock": folder / ".lock"}[name]
    linked(path, outside / "file" if name == ".lock" else outside)
    before = state_of(outside)
    assert study(["run", str(folder), "--workers=1"]) == 2
    assert_refused(capsys, path.name)
    assert state_of(outside) == before


def test_no_way_into_a_linked_run_of_a_study_is_open(planned, outside):
    folder, run = planned
    linked(run, outside)
    before, study_folder = state_of(outside), StudyFolder(folder)
    for action in (study_folder.hold, study_folder.begin):
        with pytest.raises(OSError, match="it is a link"):
            action(run.name)
    study_folder.fail(run.name, "no reason")
    assert state_of(outside) == before


def test_a_run_that_is_repeated_loses_only_files_of_runs(planned):
    folder, run = planned
    (run / "notes.txt").write_text("mine")
    (run / "checkpoints/step-3").mkdir(parents=True)
    (run / "checkpoints/best").mkdir()
    StudyFolder(folder).begin(run.name)
    kept = {path.name for path in run.rglob("*")}
    assert kept == {".running", ".lock", "notes.txt", "checkpoints", "best"}


def test_a_folder_of_studies_may_be_a_link():
    Path("small.yaml").write_text(STUDY)
    Path("disk").mkdir()
    Path("studies").symlink_to("disk")
    assert study(["run", "small.yaml", "--workers=1"]) == 0
    assert study(["run", "studies/small", "--workers=1"]) == 0
    assert len(list(Path("disk/small/runs").glob("*/summary.json"))) == 1


def test_figures_are_not_written_through_a_link(outside):
    folder = make_study(Path("study"), {"optim.lr": [1.0, 2.0]}, lambda a: finished(a["optim.lr"]))
    (folder / "figures").symlink_to(outside)
    before = state_of(outside)
    with pytest.raises(OSError, match="it is a link"):
        write_report(folder)
    assert state_of(outside) == before


def test_jobs_get_a_folder_in_which_nothing_can_wait_for_them(outside):
    """A job runs the program of the file with its number, which an old folder may already have."""
    jobs = Path("jobs")
    jobs.mkdir()
    (jobs / "1_submitted.pkl").write_bytes(b"of a stranger")
    first, second = new_folder(jobs), new_folder(jobs)
    assert first != second
    assert [*first.iterdir(), *second.iterdir()] == []
    linked(jobs, outside)
    with pytest.raises(OSError, match="it is a link"):
        new_folder(jobs)
