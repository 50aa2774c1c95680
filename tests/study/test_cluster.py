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

from scaled_sgd.study.folder import State, StudyFolder
from tests.distributed.slurm import LoopbackCluster, wait_until, why_not
from tests.launching import REPOSITORY, environment

pytestmark = pytest.mark.slow


@pytest.fixture
def clone(tmp_path):
    shutil.copytree(REPOSITORY / "configs/studies", tmp_path / "configs/studies")
    return tmp_path


def run(clone, *options, **variables):
    return subprocess.run(
        [sys.executable, "-m", "scaled_sgd.cli", "study", "run", "smoke", *options],
        cwd=clone,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def status(clone, **variables):
    told = subprocess.run(
        [sys.executable, "-m", "scaled_sgd.cli", "study", "status", "smoke"],
        cwd=clone,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def rows(folder):
    """Of the metrics of all runs."""
    return sum(path.read_text().count("\n") for path in folder.path.glob("runs/*/metrics.jsonl"))


def states(clone):
    folder = StudyFolder(clone / "studies/smoke")
    return [folder.state(entry["id"]) for entry in folder.planned()]


def test_nothing_is_submitted_before_the_plan_is_shown_and_a_dry_run_stops_there(clone):
    shown = run(clone, "--executor=slurm", "--jobs=4", "--at-once=2", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "smoke: 8 runs, 0 ended, 8 small and 0 large to do; 480 to 1,088 weights" in shown.stderr
    assert "jobs: 4 by slurm, 2 at once, 60 minutes each, 2 runs each" in shown.stderr
    assert not (clone / "studies").exists()


def test_local_jobs_share_a_study(clone):
    finished = run(clone, "--executor=local", "--jobs=2", "--at-once=2", "--workers=1")
    assert finished.returncode == 0, finished.stderr
    assert states(clone) == [State.FINISHED] * 8
    assert len(list((clone / "studies/smoke/jobs").glob("*_submitted.pkl"))) == 2
    shown = status(clone)
    assert "jobs: 2 ended\n" in f"{shown}\n"
    assert "studies/smoke: 8 runs, 8 finished" in shown


@pytest.fixture
def held(clone):
    """A study of two local jobs that hold a run each, and that cannot end by themselves."""
    script = "from tests.study.standin import submit_with; submit_with('hold')"
    started = subprocess.Popen(
        [sys.executable, "-c", script, "run", "smoke", "--executor=local", "--jobs=2", "--at-once=2"],
        cwd=clone,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        plan = clone / "studies/smoke/plan.jsonl"
        wait_until(
            lambda: plan.exists() and states(clone).count(State.RUNNING) == 2, seconds=90, what="two jobs"
        )
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_study_that_is_stopped_ends_its_local_jobs_before_itself(number, code, held, clone):
    # As a terminal does with Ctrl-C, and a scheduler with SIGTERM.
    (os.killpg if number == signal.SIGINT else os.kill)(held.pid, number)
    _, errors = held.communicate(timeout=60)
    assert held.returncode == code
    assert errors.splitlines()[-1] == "interrupted: the same command goes on where it was"
    assert "Traceback" not in errors
    assert states(clone) == [State.PENDING] * 8


def test_local_jobs_end_with_a_study_that_is_killed(held, clone):
    held.kill()
    wait_until(lambda: states(clone) == [State.PENDING] * 8, seconds=60, what="the jobs to end")
    # Their controllers have the group of the study, as they have.
    wait_until(lambda: not members_of(held.pid), seconds=60, what="their controllers to end")


def members_of(group):
    """Processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its = stat.read_text().rpartition(")")[2].split()[:3]
            found += [stat.parent.name] * (its == str(group) and state not in "ZX")
    return found


def test_a_cluster_that_is_not_here_is_one_line(clone):
    without = {"PATH": os.path.dirname(sys.executable), "SLURM_CONF": "/nowhere"}
    refused = run(clone, "--executor=slurm", **without)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: executor: 'slurm': ")
    assert "Traceback" not in refused.stderr


@pytest.fixture
def cluster():
    if why_not() is not None:
        pytest.skip(str(why_not()))
    with tempfile.TemporaryDirectory(prefix="slurm-") as place, LoopbackCluster(Path(place)) as found:
        yield found


def submitted(clone, cluster, name, *options):
    """Names of the jobs of the study, which run a stand-in."""
    script = f"from tests.study.standin import submit_with; submit_with({name!r})"
    told = subprocess.run(
        [sys.executable, "-c", script, "run", "smoke", "--executor=slurm", "--slurm", "mem=500M", *options],
        cwd=clone,
        env=environment() | cluster.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    return told.stderr.split("submitted: ")[1].split(";")[0].split(", ")


def test_a_slurm_array_does_a_study_so_many_jobs_at_a_time(clone, cluster):
    study = clone / "configs/studies/smoke.yaml"
    study.write_text(study.read_text().replace("[4, 8]", "[4, 40]") + "large_weights: 10000\n")
    options = ("--jobs=2", "--at-once=1", "--workers=1", "--optim.lr=2")
    first, second = submitted(clone, cluster, "wait_for_go", *options)
    wait_until(lambda: cluster.state(first) == "RUNNING", seconds=90, what="the first job")
    assert cluster.state(second) == "PENDING"
    assert "jobs: 1 running, 1 pending" in status(clone, **cluster.environment)
    (clone / "go").touch()
    assert [cluster.end(job, seconds=150) for job in (first, second)] == ["COMPLETED"] * 2
    assert "jobs: 2 ended\n" in f"{status(clone, **cluster.environment)}\n"
    assert states(clone) == [State.FINISHED] * 4


def test_a_large_run_whose_job_is_out_of_time_is_saved_queued_again_and_goes_on(clone, cluster):
    """It has steps for hours."""
    study, folder = clone / "configs/studies/smoke.yaml", StudyFolder(clone / "studies/smoke")
    study.write_text(study.read_text() + "large_weights: 0\n")
    sizes = ("--optim.steps=3000000", "--run.log_every=100", "--diagnostics.every=0", "--run.eval_every=0")
    one = ("--model.base_width=4", "--optim.lr=2", "--run.seed=0", "--jobs=1")
    (job,) = submitted(clone, cluster, "study_command", *one, *sizes)
    wait_until(lambda: folder.path.exists() and rows(folder) > 5, seconds=120, what="steps of the run")
    cluster.run("scancel", "--signal=USR2", job)
    wait_until(lambda: cluster.state(job) == "PENDING", seconds=60, what=f"job {job} to be queued")
    assert states(clone) == [State.PENDING]
    before = rows(folder)
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_until(lambda: rows(folder) > before, seconds=120, what="more steps of the run")
    (log,) = (folder.path / "launches").glob("*.log")
    assert "resumed: " in log.read_text()
