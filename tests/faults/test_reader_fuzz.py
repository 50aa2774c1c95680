"""Damaged and hostile folders of runs and studies: the right answer or one line, nothing written outside."""

import contextlib
import shutil
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
from accelerate.state import AcceleratorState

from scaled_sgd import load_run
from scaled_sgd.core.errors import UserError
from scaled_sgd.study.command import main as study
from scaled_sgd.train.main import main as train
from tests.faults.mutation import copied, mutate, state_of, stock
from tests.study.folders import diagnosed, finished, make_study

RUN = (
    "--model.depth=3", "--model.base_width=2", "--optim.steps=4", "--optim.batch_size=50", "--data.limit=100",
    "--optim.momentum=0.5", "--run.device=cpu",
)  # fmt: skip
"""Also given when resuming: a stored configuration may ask for any amount of work."""
SECONDS = 20
"""After this long a reader counts as blocked."""


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("a reader is blocked")

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    AcceleratorState._reset_state(reset_partial_state=True)


def check(status: int, shown: str, allowed: tuple[int, ...]) -> None:
    """One line about a mistake, and nothing that a terminal would obey."""
    assert status in allowed
    mistakes = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert len(mistakes) == (0 if status == 0 else 1), shown
    assert "Traceback" not in shown
    assert all(character.isprintable() or character in "\n\r" for character in shown), repr(shown)


def resume_mutated(seeds: range, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train([*RUN, "--run.dir=.", "--run.name=run", "--checkpoint.every_steps=1"]) == 0
    whole = Path("run").rename(tmp_path / "whole")
    outside = tmp_path / "outside"
    precious = stock(outside, whole)
    for seed in seeds:
        chance = Random(seed)
        copied(whole, Path("run"))
        done = [mutate(Path("run"), chance, outside) for _ in range(chance.randint(1, 3))]
        path = chance.choice(["run", "run/checkpoints/step-3", "run/checkpoints/step-4"])
        AcceleratorState._reset_state(reset_partial_state=True)
        capsys.readouterr()
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings(action="ignore"):
                status = train([*RUN, f"--run.resume={path}"])
            shown = capsys.readouterr()
            check(status, shown.out + shown.err, (0, 2, 3, 4))
            assert state_of(outside) == precious
            assert [entry.name for entry in Path().iterdir()] == ["run"]
        except BaseException as error:
            error.add_note(f"seed {seed}: {done}")
            raise


def load_mutated(seeds: range, tmp_path: Path) -> None:
    assert train([*RUN, "--run.dir=.", "--run.name=run", "--data.standardize=true"]) == 0
    whole = Path("run").rename(tmp_path / "whole")
    outside = tmp_path / "outside"
    precious = stock(outside, whole)
    for seed in seeds:
        chance = Random(seed)
        place = chance.choice(["model", "checkpoints"])
        copied(whole, Path("run"))
        if place == "checkpoints":
            shutil.rmtree("run/model")
        done = [mutate(Path("run", place), chance, outside) for _ in range(chance.randint(1, 3))]
        before = state_of(Path("run"))
        signal.alarm(SECONDS)
        try:
            with contextlib.suppress(UserError):
                load_run("run").predict(np.ones((3, 64)))
            assert state_of(outside) == precious
            assert state_of(Path("run")) == before
        except BaseException as error:
            error.add_note(f"seed {seed}: {done}")
            raise


def read_mutated_study(
    seeds: range, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = {"method": ["a", "b"], "optim.lr": [0.5, 2.0]}
    head = {"report": ["loss_against_lr"], "base": {"loss": "mse"}, "axes": [{"optim.lr": [0.5, 2.0]}]}
    whole = make_study(
        tmp_path / "whole", axes, lambda a: finished(a["optim.lr"], rows=[diagnosed(10)]), study=head
    )
    for number, run in enumerate(sorted((whole / "runs").iterdir())[:2]):
        (run / "error.txt").write_text("a reason\n")
        (run / ".running").write_text(f"process {number} on elsewhere")
        (run / "summary.json").unlink()
    (whole / "jobs").mkdir()
    (whole / "jobs/submitted.jsonl").write_text('{"executor": "local", "jobs": ["999999999", "1"]}\n')
    outside = tmp_path / "outside"
    precious = stock(outside, whole)
    for seed in seeds:
        chance = Random(seed)
        copied(whole, Path("study"))
        done = [mutate(Path("study"), chance, outside) for _ in range(chance.randint(1, 3))]
        capsys.readouterr()
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings(action="ignore"):
                status = study([command, "study"])
            shown = capsys.readouterr()
            check(status, shown.out + shown.err, (0, 2))
            assert state_of(outside) == precious
            assert [entry.name for entry in Path().iterdir()] == ["study"]
        except BaseException as error:
            error.add_note(f"seed {seed}: {done}")
            raise


def test_a_mutated_run_is_resumed_or_refused(tmp_path, capsys):
    resume_mutated(range(10), tmp_path, capsys)


def test_a_mutated_network_is_loaded_or_refused(tmp_path):
    load_mutated(range(30), tmp_path)


@pytest.mark.parametrize(("command", "count"), [("status", 40), ("collect", 12), ("report", 1)])
@pytest.mark.slow
def test_a_mutated_study_is_read_or_refused(command, count, tmp_path, capsys):
    read_mutated_study(range(count), command, tmp_path, capsys)


@pytest.mark.full
def test_many_mutated_runs_are_resumed_or_refused(tmp_path, capsys):
    resume_mutated(range(1000, 1300), tmp_path, capsys)


@pytest.mark.full
def test_many_mutated_networks_are_loaded_or_refused(tmp_path):
    load_mutated(range(1000, 2000), tmp_path)


@pytest.mark.full
@pytest.mark.parametrize(("command", "count"), [("status", 1000), ("collect", 500), ("report", 20)])
def test_many_mutated_studies_are_read_or_refused(command, count, tmp_path, capsys):
    read_mutated_study(range(1000, 1000 + count), command, tmp_path, capsys)
