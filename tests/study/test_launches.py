"""Large runs of a study, in processes of their own, whatever becomes of the one that started them."""

import signal
import subprocess
import sys
from collections import Counter

import pytest

from scaled_sgd.runs.records import read_metrics
from scaled_sgd.study.attempt import DataShelf
from scaled_sgd.study.execution.launches import launch
from scaled_sgd.study.folder import State, StudyFolder
from scaled_sgd.study.grid import expand, read_study
from tests.distributed.slurm import wait_until
from tests.launching import environment

pytestmark = pytest.mark.slow

MAKER = """
import sys
from pathlib import Path
from scaled_sgd.study.attempt import DataShelf
from scaled_sgd.study.folder import StudyFolder
from scaled_sgd.study.grid import expand, read_study
from scaled_sgd.study.execution.launches import launch

folder = StudyFolder(Path("studies/s"))
(run,) = expand(read_study(Path("s.yaml")), DataShelf())
launch(run, folder)
"""
TOTAL = 1500


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "s.yaml"
    sizes = f"model: {{depth: 2, base_width: 2}}, optim: {{steps: {TOTAL}, batch_size: 32}}"
    path.write_text(f"base: {{{sizes}, run: {{log_every: 1, eval_every: 0}}}}")
    (run,) = expand(read_study(path), DataShelf())
    return run, StudyFolder(tmp_path / "studies/s")


def steps(folder, run):
    path = folder.run(run.id) / "metrics.jsonl"
    return [row["step"] for row in read_metrics(path)] if path.exists() else []


def start(tmp_path, folder, run):
    """A process that makes the run, which has made some steps."""
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(steps(folder, run)) > 20, seconds=60, what="the first steps")
    return maker


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_large_run_is_saved_when_its_study_is_stopped_and_goes_on(tmp_path, study, number, monkeypatch):
    run, folder = study
    maker = start(tmp_path, folder, run)
    assert folder.state(run.id) == State.RUNNING
    maker.send_signal(number)
    maker.communicate(timeout=60)
    # Killed, the study cannot wait for the trainer, which holds the run until it is saved.
    wait_until(lambda: folder.state(run.id) != State.RUNNING, seconds=60, what="the trainer to end")
    assert folder.state(run.id) == State.PENDING
    assert 20 < len(steps(folder, run)) < TOTAL
    assert any((folder.run(run.id) / "checkpoints").iterdir())
    monkeypatch.chdir(tmp_path)
    assert launch(run, folder) == "finished"
    counted = Counter(steps(folder, run))
    assert set(range(TOTAL)) <= set(counted)
    assert set(counted.values()) == {1}
    assert "resumed: " in (folder.path / f"launches/{run.id}.log").read_text()


def test_a_large_run_that_fails_says_why(tmp_path, study):
    run, folder = study
    folder.run(run.id).mkdir(parents=True)
    (folder.run(run.id) / "metrics.jsonl").mkdir()
    assert launch(run, folder) == "failed"
    assert folder.state(run.id) == State.FAILED
    assert folder.error(run.id).startswith("exit status 2: error: run.dir: cannot write in ")
