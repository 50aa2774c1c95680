"""What happens to a run whose processes, disk or neighbours fail."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from scaled_sgd.runs.records import read_metrics
from scaled_sgd.train.main import main
from tests.copies import context, ready
from tests.launching import PATIENCE, environment, wait_until
from tests.programs import Program

pytestmark = pytest.mark.slow

Run = TypeVar("Run", Program, "Copy", "subprocess.Popen[bytes]")

LONG = (
    "--scaling.rule=norm",
    "--model.depth=3", "--model.base_width=4", "--optim.lr=1", "--optim.steps=1000000000", "--run.name=run",
    "--run.log_every=50", "--checkpoint.every_steps=100", "--run.eval_every=0", "--run.resume=auto",
    "--optim.schedule=constant",
)  # fmt: skip


class Copy:
    """A run of one process, started as a copy of one that has imported everything; used like a ``Popen``."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        ready()
        self._process = context.Process(target=train_in, args=(folder, arguments))
        self._process.start()
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def wait(self) -> None:
        self._process.join()


def train_in(folder: Path, arguments: Sequence[str]) -> None:
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open("errors.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os._exit(main([*arguments]))


def started(folder: Path, processes: int, *extra: str) -> Program:
    """``scaled-sgd train`` as users start it, which tells ``errors.txt`` what it has to say."""
    options = (*LONG, f"--run.processes={processes}", *extra)
    output = folder / "errors.txt"
    return Program("-m", "scaled_sgd.cli", "train", *options, cwd=folder, stdout=output, stderr=output)


def interpreter(folder: Path, processes: int, *extra: str) -> "subprocess.Popen[bytes]":
    """The same by an interpreter of its own, which tells what it leaves behind when it ends."""
    options = (*LONG, f"--run.processes={processes}", *extra)
    with (folder / "errors.txt").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "scaled_sgd.cli", "train", *options],
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


@contextmanager
def running(folder: Path, run: Run) -> Iterator[Run]:
    """The run once it has saved; whatever is left of it is killed at the end."""
    try:
        wait_for(run, folder, lambda: list((folder / "runs/run/checkpoints").glob("step-*")))
        yield run
    finally:
        for pid in (run.pid, *children(run.pid)):
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)
        run.wait()


def wait_for(
    run: "Program | Copy | subprocess.Popen[bytes]", folder: Path, reached: Callable[[], object]
) -> None:
    """Return once ``reached()``; the run, which cannot end by itself, goes on meanwhile."""

    def look() -> bool:
        assert run.poll() is None, (folder / "errors.txt").read_text()
        return bool(reached())

    wait_until(look, what="the run")


def children(pid: int) -> list[int]:
    """Processes started by ``pid`` that are still there, by age."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in listed.split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def errors(folder: Path) -> list[str]:
    return [line for line in (folder / "errors.txt").read_text().splitlines() if line.startswith("error: ")]


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_metrics(folder / "runs/run/metrics.jsonl")]


def assert_goes_on(folder: Path) -> None:
    """The run can be resumed, by one process, from where it was saved, and logs every step once."""
    (folder / "errors.txt").unlink()
    with running(folder, Copy(folder, LONG)) as run:
        before = len(steps(folder))
        wait_for(run, folder, lambda: len(steps(folder)) > before)
    assert "resumed: runs/run/checkpoints/step-" in (folder / "errors.txt").read_text()
    logged = steps(folder)
    assert logged == sorted(set(logged))


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.full)])
def test_a_rank_that_is_killed_ends_the_run_with_a_message(rank, tmp_path):
    with running(tmp_path, started(tmp_path, 2)) as run:
        os.kill(children(run.pid)[rank], signal.SIGKILL)
        assert run.wait(timeout=PATIENCE) == 137
    name = f"error: launch: process {rank} was ended by SIGKILL, and the others with it"
    *others, last = errors(tmp_path)
    assert last == name
    # The other one may see it before the launcher ends it.
    assert all(line.startswith("error: launch: another process is gone or hangs (") for line in others)
    assert "Traceback" not in (tmp_path / "errors.txt").read_text()
    assert_goes_on(tmp_path)


def test_ranks_save_and_end_when_their_launcher_is_killed(tmp_path):
    with running(tmp_path, started(tmp_path, 2)) as run:
        ranks = children(run.pid)
        run.kill()
        run.wait()
        wait_until(lambda: not any(map(is_running, ranks)), what="the ranks to end")
    assert "interrupted: SIGTERM after step " in (tmp_path / "errors.txt").read_text()
    assert_goes_on(tmp_path)


@pytest.mark.full
def test_a_rank_that_hangs_is_given_up_after_the_time_that_is_configured(tmp_path):
    with running(tmp_path, started(tmp_path, 2, "--run.timeout_seconds=5")) as run:
        os.kill(children(run.pid)[1], signal.SIGSTOP)
        # The launcher gives the process that hangs half a minute to end by itself.
        assert run.wait(timeout=PATIENCE) == 4, (tmp_path / "errors.txt").read_text()
    (line,) = errors(tmp_path)
    assert line.startswith("error: launch: another process is gone or hangs (")


@pytest.mark.parametrize(
    ("processes", "number", "status"),
    [
        (1, signal.SIGTERM, 143),
        pytest.param(2, signal.SIGUSR1, 138, marks=pytest.mark.full),
        (2, signal.SIGINT, 130),
        pytest.param(2, signal.SIGHUP, 129, marks=pytest.mark.full),
        pytest.param(2, signal.SIGTERM, 143, marks=pytest.mark.full),
        pytest.param(1, signal.SIGUSR1, 138, marks=pytest.mark.full),
        pytest.param(1, signal.SIGINT, 130, marks=pytest.mark.full),
    ],
)
def test_a_signal_saves_after_the_step_and_ends_the_run(processes, number, status, tmp_path):
    once = ("--checkpoint.every_steps=null", "--checkpoint.keep_steps=[1]")
    with running(tmp_path, interpreter(tmp_path, processes, *once)) as run:
        workers = children(run.pid) if processes > 1 else [run.pid]
        if number == signal.SIGUSR1:
            for worker in workers:
                os.kill(worker, number)
        else:
            os.kill(run.pid, number)
            os.kill(workers[0], number) if number == signal.SIGTERM else None
        assert run.wait(timeout=PATIENCE) == status
    text = (tmp_path / "errors.txt").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("interrupted: ")]
    step = int(line.split("after step ")[1].split(",")[0])
    assert line == (
        f"interrupted: {number.name} after step {step}, saved in runs/run/checkpoints/step-{step}; "
        "--run.resume runs/run resumes it"
    )
    assert "Traceback" not in text
    # As torch's launcher and a tracker of semaphores would write.
    assert not re.search(r"^[WE]\d{4} |death signal|leaked", text, re.MULTILINE)
    summary = json.loads((tmp_path / "runs/run/summary.json").read_text())
    assert (summary["status"], summary["step"]) == ("interrupted", step)
    assert (tmp_path / "runs/run/model/config.json").is_file()


@pytest.mark.usefixtures("fresh_world")
def test_a_second_process_on_a_run_directory_is_refused(tmp_path, capsys):
    with running(tmp_path, Copy(tmp_path, LONG)) as run:
        assert main([*LONG]) == 2
        assert (
            capsys.readouterr()
            .err.splitlines()[-1]
            .startswith(f"error: run.name: 'runs/run' is in use by process {run.pid} on ")
        )
        assert run.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.full)])
def test_a_full_disk_leaves_the_run_going_and_the_old_checkpoint(processes, tmp_path):
    folder = tmp_path / "runs/run/checkpoints"
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        one = "--checkpoint.keep=1"
        run = Copy(tmp_path, (*LONG, one)) if processes == 1 else started(tmp_path, processes, one)
        with running(tmp_path, run):
            (folder / "filler").write_bytes(
                b"0" * (os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - 4096)
            )
            kept = {path.name for path in folder.glob("step-*")}
            begun = len(steps(tmp_path))
            wait_for(run, tmp_path, lambda: len(steps(tmp_path)) >= begun + 8)
            text = (tmp_path / "errors.txt").read_text()
            assert "warning: checkpoint: cannot write 'runs/run/checkpoints/step-" in text
            assert "No space left on device; allowed: a writable folder with room; the run continues" in text
            assert kept & {path.name for path in folder.glob("step-*")}
            (folder / "filler").unlink()
        assert_goes_on(tmp_path)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
