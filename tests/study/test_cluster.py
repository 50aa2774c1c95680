"""The same study as jobs, on this machine and under a real Slurm."""

import json
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


def rows(folder, run):
    path = folder.run(run) / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def states(clone):
    folder = StudyFolder(clone / "studies/smoke")
    plan = [json.loads(line) for line in (folder.path / "plan.jsonl").read_text().splitlines()]
    return [folder.state(entry["id"]) for entry in plan]


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_local_jobs_end_with_the_study(number, code, clone):
    command = [sys.executable, "-m", "scaled_sgd.cli", "study", "run", "smoke", "--optim.steps=200000"]
    started = subprocess.Popen(
        [*command, "--executor=local", "--jobs=2"],
        cwd=clone,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    plan = clone / "studies/smoke/plan.jsonl"
    wait_until(lambda: plan.exists() and State.RUNNING in states(clone), seconds=90, what="a run to begin")
    # As a terminal does with Ctrl-C, and a scheduler with SIGTERM.
    (os.killpg if number == signal.SIGINT else os.kill)(started.pid, number)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == code
    assert errors.splitlines()[-1] == "interrupted: the same command goes on where it was"
    assert "Traceback" not in errors
    assert states(clone) == [State.PENDING] * 8


def test_a_cluster_that_is_not_here_is_one_line(clone):
    without = {"PATH": os.path.dirname(sys.executable), "SLURM_CONF": "/nowhere"}
    refused = run(clone, "--executor=slurm", **without)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: executor: 'slurm': ")
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_slurm_array_does_a_study_and_a_job_whose_time_is_over_goes_on(clone):
    """A job makes a small run and then a large one, in which it is told that its time is over."""
    study, folder = clone / "configs/studies/smoke.yaml", StudyFolder(clone / "studies/smoke")
    text = study.read_text().replace("[4, 8]", "[4, 40]").replace("[2, 8]", "[2]")
    study.write_text(f"{text}large_weights: 10000\n")
    options = ("--executor=slurm", "--jobs=2", "--at-once=1", "--workers=1", "--slurm", "mem=500M")
    sizes = ("--optim.steps=3000", "--diagnostics.every=0", "--run.eval_every=0")
    with tempfile.TemporaryDirectory(prefix="slurm-") as place, LoopbackCluster(Path(place)) as cluster:
        submitted = run(clone, *options, *sizes, **cluster.environment)
        assert submitted.returncode == 0, submitted.stderr
        first, second = submitted.stderr.split("submitted: ")[1].split(";")[0].split(", ")
        logs = folder.path / "launches"
        wait_until(lambda: any(logs.glob("*.log")), seconds=90, what="a large run")
        # One at a time.
        assert cluster.state(second) == "PENDING"
        assert "jobs: 1 running, 1 pending" in status(clone, **cluster.environment)
        wait_until(
            lambda: any(rows(folder, log.stem) > 5 for log in logs.glob("*.log")),
            seconds=90,
            what="steps of a large run",
        )
        cluster.run("scancel", "--signal=USR2", first)
        wait_until(lambda: cluster.state(first) == "PENDING", seconds=60, what=f"job {first} to be queued")
        cluster.run("scontrol", "update", f"JobId={first}", "StartTime=now")
        ends = [cluster.end(job, seconds=150) for job in (first, second)]
        assert "jobs: 2 ended\n" in f"{status(clone, **cluster.environment)}\n"
    assert ends == ["COMPLETED"] * 2
    assert states(clone) == [State.FINISHED] * 4
    told = [log.read_text() for log in logs.glob("*.log")]
    assert sorted("resumed: " in text for text in told) == [False, True]
