"""What a run says and returns when its folder, its disk or its terminal is taken away."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from scaled_sgd.core.errors import CheckpointError
from scaled_sgd.train import saver, trainer
from scaled_sgd.train.main import main
from scaled_sgd.train.recording import RunRecord

RUN = (
    "--scaling.rule=norm", "--optim.lr=4",
    "--model.depth=2", "--model.base_width=2", "--optim.steps=8", "--run.log_every=1", "--run.name=r",
    "--run.eval_every=0",
)  # fmt: skip


@pytest.fixture
def at_step_3(fresh_world, monkeypatch):
    """Does something when the row of step 3 is due."""

    def arrange(event):
        row = RunRecord.row

        def then(self, values):
            if values["step"] == 3:
                event()
            row(self, values)

        monkeypatch.setattr(RunRecord, "row", then)

    return arrange


def last_line(capfd):
    lines = capfd.readouterr().err.splitlines()
    assert sum(line.startswith(("error: ", "interrupted: ")) for line in lines) == 1
    return lines[-1]


def test_a_run_whose_folder_is_deleted_ends_with_status_4(at_step_3, capfd):
    at_step_3(lambda: shutil.rmtree("runs/r"))
    assert main(RUN) == 4
    line = last_line(capfd)
    assert line.startswith("error: run.dir: ")
    assert "runs/r/metrics.jsonl' was deleted or moved while the run trained; allowed: " in line
    assert not Path("runs/r").exists()


def test_a_run_whose_folder_is_moved_ends_and_leaves_its_rows_there(at_step_3, capfd):
    at_step_3(lambda: os.rename("runs/r", "runs/moved"))
    assert main(RUN) == 4
    assert "was deleted or moved" in last_line(capfd)
    assert not Path("runs/r").exists()
    assert Path("runs/moved/metrics.jsonl").read_text().count("\n") == 3


def test_a_hangup_saves_and_ends_the_run(at_step_3, capfd):
    at_step_3(lambda: os.kill(os.getpid(), signal.SIGHUP))
    assert main(RUN) == 129
    assert last_line(capfd) == (
        "interrupted: SIGHUP after step 4, saved in runs/r/checkpoints/step-4; --run.resume runs/r resumes it"
    )
    assert Path("runs/r/checkpoints/step-4/manifest.json").exists()


def test_a_hangup_that_nohup_ignores_changes_nothing(at_step_3):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step_3(lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert main(RUN) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_that_cannot_be_saved_at_its_end_has_status_4(fresh_world, monkeypatch, capfd):
    def fail(*_arguments, **_options):
        raise CheckpointError("checkpoint: cannot write 'x': No space left on device; allowed: room")

    monkeypatch.setattr(saver, "save", fail)
    assert main(RUN) == 4
    assert last_line(capfd).endswith("allowed: room; the run is done, but not saved")


def test_a_file_that_cannot_be_written_is_one_line(fresh_world, monkeypatch, capfd):
    def fail(*_arguments):
        raise PermissionError(13, "Permission denied", "/cache")

    monkeypatch.setattr(trainer, "load_metrics", fail)
    assert main(RUN) == 2
    assert capfd.readouterr().err == (
        "error: file: '/cache': Permission denied; allowed: files and folders that can be read and written\n"
    )
