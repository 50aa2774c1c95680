"""Large runs of a study, in processes of their own, whatever becomes of the one that started them."""

import signal

import pytest
import yaml

from scaled_sgd.runs.records import read_metrics
from scaled_sgd.study.folder import State, StudyFolder
from scaled_sgd.study.grid import expand, read_study
from scaled_sgd.study.small.attempt import DataShelf
from tests.holding import Hold
from tests.launching import PATIENCE, wait_until
from tests.programs import Program, finished

pytestmark = pytest.mark.slow

MAKER = """
import sys
from pathlib import Path
from scaled_sgd.study.small.attempt import DataShelf
from scaled_sgd.study.folder import StudyFolder
from scaled_sgd.study.grid import expand, read_study
from scaled_sgd.study.execution.launches import launch

folder = StudyFolder(Path("studies/s"))
(run,) = expand(read_study(Path("s.yaml")), DataShelf())
print(launch(run, folder))
"""
HELD, TOTAL = 25, 60
"""Steps before the evaluation in which a run holds until it is told to stop, and of a whole run."""


def planned(tmp_path, **of_run):
    sizes = {"model": {"depth": 2, "base_width": 2}, "optim": {"steps": TOTAL, "batch_size": 32}}
    base = {**sizes, "run": {"log_every": 1, **of_run}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"base": base}))
    (run,) = expand(read_study(tmp_path / "s.yaml"), DataShelf())
    return run, StudyFolder(tmp_path / "studies/s")


def steps(folder, run):
    return [row["step"] for row in read_metrics(folder.run(run.id) / "metrics.jsonl")]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.full)])
def test_a_large_run_is_saved_when_its_study_is_stopped_and_goes_on(tmp_path, number):
    hold = Hold(tmp_path)
    run, folder = planned(tmp_path, eval_every=HELD, metrics=[str(hold.script)])
    maker = Program("-c", MAKER, cwd=tmp_path)
    wait_until(lambda: hold.holds, what="the run to hold")
    assert folder.state(run.id) == State.RUNNING
    maker.send_signal(number)
    maker.communicate(timeout=PATIENCE)
    # Killed, the study cannot wait for the trainer, which holds the run until it is saved.
    wait_until(lambda: folder.state(run.id) != State.RUNNING, what="the trainer to end")
    assert folder.state(run.id) == State.PENDING
    assert steps(folder, run) == list(range(HELD + 1))
    assert (folder.run(run.id) / f"checkpoints/step-{HELD + 1}").is_dir()
    assert finished("-c", MAKER, cwd=tmp_path).stdout == "finished\n"
    assert steps(folder, run) == list(range(TOTAL + 1))
    assert "resumed: " in (folder.path / f"launches/{run.id}.log").read_text()


def test_a_large_run_that_fails_says_why(tmp_path):
    run, folder = planned(tmp_path)
    folder.run(run.id).mkdir(parents=True)
    (folder.run(run.id) / "metrics.jsonl").mkdir()
    assert finished("-c", MAKER, cwd=tmp_path).stdout == "failed\n"
    assert folder.state(run.id) == State.FAILED
    assert folder.error(run.id).startswith("exit status 2: error: run.dir: cannot write in ")
