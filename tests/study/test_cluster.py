"""The same study as jobs, on this machine and under a real Slurm."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from scaled_sgd.study.command import main as study
from scaled_sgd.study.folder import State, StudyFolder
from tests.distributed.slurm import LoopbackCluster, why_not
from tests.holding import Hold
from tests.launching import PATIENCE, REPOSITORY, environment, wait_until
from tests.programs import finished


@pytest.fixture
def clone(tmp_path, monkeypatch):
    shutil.copytree(REPOSITORY / "configs/studies", tmp_path / "configs/studies")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments, jobs="study_command"):
    """``scaled-sgd study`` whose jobs are a stand-in."""
    code = (
        f"import sys; from tests.study.standin import with_jobs_of as w; sys.exit(w({jobs!r})(sys.argv[1:]))"
    )
    return ["-c", code, *arguments]


def run(clone, *options, jobs="study_command"):
    return finished(*command("run", "smoke", *options, jobs=jobs), cwd=clone)


def status(capsys):
    capsys.readouterr()
    assert study(["status", "smoke"]) == 0
    return capsys.readouterr().out


def rows(folder):
    """Of the metrics of all runs."""
    return sum(path.read_text().count("\n") for path in folder.path.glob("runs/*/metrics.jsonl"))


def states(clone):
    folder = StudyFolder(clone / "studies/smoke")
    return [folder.state(entry["id"]) for entry in folder.planned()]


def test_nothing_is_submitted_before_the_plan_is_shown_and_a_dry_run_stops_there(clone, capsys):
    assert study(["run", "smoke", "--executor=slurm", "--jobs=4", "--at-once=2", "--dry-run"]) == 0
    shown = capsys.readouterr().err
    assert "smoke: 8 runs, 0 ended, 8 small and 0 large to do; 480 to 1,088 weights" in shown
    assert "jobs: 4 by slurm, 2 at once, 60 minutes each, 2 runs each" in shown
    assert not (clone / "studies").exists()


@pytest.mark.slow
def test_local_jobs_share_a_study(clone, capsys):
    finished = run(clone, "--executor=local", "--jobs=2", "--at-once=2", "--workers=1")
    assert finished.returncode == 0, finished.stderr
    assert states(clone) == [State.FINISHED] * 8
    assert len(list((clone / "studies/smoke/jobs").glob("*/*_submitted.pkl"))) == 2
    shown = status(capsys)
    assert "jobs: 2 ended\n" in f"{shown}\n"
    assert "studies/smoke: 8 runs, 8 finished" in shown


@pytest.fixture
def held(clone, request):
    """A study of so many local jobs that hold a run each, and that cannot end by themselves."""
    kind, jobs = request.param
    options = ("--executor=local", f"--jobs={jobs}", f"--at-once={jobs}")
    # An interpreter of its own tells what it leaves behind when it ends.
    started = subprocess.Popen(
        [sys.executable, *command("run", "smoke", *options, jobs=kind)],
        cwd=clone,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        plan = clone / "studies/smoke/plan.jsonl"
        wait_until(lambda: plan.exists() and states(clone).count(State.RUNNING) == jobs, what="the jobs")
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "held"),
    [(signal.SIGTERM, 143, ("deaf", 1)), (signal.SIGINT, 130, ("hold", 2))],
    indirect=["held"],
)
def test_a_study_that_is_stopped_ends_its_local_jobs_before_itself(number, code, held, clone):
    # As a terminal does with Ctrl-C, and a scheduler with SIGTERM.
    (os.killpg if number == signal.SIGINT else os.kill)(held.pid, number)
    _, errors = held.communicate(timeout=PATIENCE)
    assert held.returncode == code
    assert errors.splitlines()[-1] == "interrupted: the same command resumes it"
    assert "Traceback" not in errors
    assert "leaked" not in errors
    assert states(clone) == [State.PENDING] * 8


@pytest.mark.slow
@pytest.mark.parametrize("held", [("deaf", 1)], indirect=True)
def test_local_jobs_end_with_a_study_that_is_killed(held, clone):
    held.kill()
    wait_until(lambda: states(clone) == [State.PENDING] * 8, what="the jobs to end")
    # Their controllers have the group of the study, as they have.
    wait_until(lambda: not members_of(held.pid), what="their controllers to end")


def members_of(group):
    """Processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its = stat.read_text().rpartition(")")[2].split()[:3]
            found += [stat.parent.name] * (its == str(group) and state not in "ZX")
    return found


def test_a_cluster_that_is_not_here_is_one_line(clone, capsys, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    monkeypatch.setenv("SLURM_CONF", "/nowhere")
    assert study(["run", "smoke", "--executor=slurm"]) == 2
    refused = capsys.readouterr().err
    assert refused.splitlines()[-1].startswith("error: executor: 'slurm': ")
    assert "Traceback" not in refused


@pytest.fixture
def cluster(monkeypatch):
    if why_not() is not None:
        pytest.skip(str(why_not()))
    with tempfile.TemporaryDirectory(prefix="slurm-") as place, LoopbackCluster(Path(place)) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


def submitted(clone, *options, jobs="study_command"):
    """Names of the jobs of the study."""
    slurm = ("--executor=slurm", "--slurm=mem=500M", "--workers=1")
    told = run(clone, *slurm, *options, jobs=jobs)
    assert told.returncode == 0, told.stderr
    return told.stderr.split("submitted: ")[1].split(";")[0].split(", ")


@pytest.mark.slow
def test_a_slurm_array_does_a_study_so_many_jobs_at_a_time(clone, cluster, capsys):
    file = clone / "configs/studies/smoke.yaml"
    file.write_text(file.read_text().replace("[4, 8]", "[4, 40]") + "large_weights: 10000\n")
    options = ("--jobs=2", "--at-once=1", "--optim.lr=2", "--run.seed=0")
    first, second = submitted(clone, *options, jobs="wait_for_go")
    wait_until(lambda: cluster.state(first) == "RUNNING", what="the first job")
    assert cluster.state(second) == "PENDING"
    assert "jobs: 1 running, 1 pending" in status(capsys)
    (clone / "go").touch()
    assert [cluster.end(job) for job in (first, second)] == ["COMPLETED"] * 2
    assert "jobs: 2 ended\n" in f"{status(capsys)}\n"
    assert states(clone) == [State.FINISHED] * 2


@pytest.mark.slow
@pytest.mark.full
def test_a_large_run_whose_job_is_out_of_time_is_saved_queued_again_and_goes_on(clone, cluster):
    hold, folder = Hold(clone), StudyFolder(clone / "studies/smoke")
    one = ("--model.base_width=4", "--optim.lr=2", "--run.seed=0", "--run.eval_every=10")
    (job,) = submitted(clone, *one, "--run.metrics", f"[{hold.script}]")
    wait_until(lambda: hold.holds, what="the run to hold")
    cluster.run("scancel", "--signal=USR2", job)
    wait_until(lambda: cluster.state(job) == "PENDING", what=f"job {job} to be queued")
    assert states(clone) == [State.PENDING]
    cluster.start_again(job)
    assert cluster.end(job) == "COMPLETED"
    assert states(clone) == [State.FINISHED]
    (log,) = (folder.path / "launches").glob("*.log")
    assert "resumed: " in log.read_text()
