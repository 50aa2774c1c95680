"""The same study as jobs, on this machine and under a real Slurm."""

import json
import os
import shutil
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


def test_a_cluster_that_is_not_here_is_one_line(clone):
    without = {"PATH": os.path.dirname(sys.executable), "SLURM_CONF": "/nowhere"}
    refused = run(clone, "--executor=slurm", **without)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: executor: 'slurm': ")
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_slurm_array_does_a_study_and_a_requeued_job_goes_on(clone):
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, LoopbackCluster(Path(folder)) as cluster:
        submitted = run(
            clone, "--executor=slurm", "--jobs=2", "--at-once=1", "--workers=1", "--slurm", "mem=500M",
            "--optim.steps=1500", **cluster.environment,
        )  # fmt: skip
        assert submitted.returncode == 0, submitted.stderr
        first, second = submitted.stderr.split("submitted: ")[1].split(";")[0].split(", ")
        wait_until(lambda: cluster.state(first) == "RUNNING", seconds=30, what=f"job {first} to run")
        # One at a time.
        assert cluster.state(second) == "PENDING"
        wait_until(lambda: State.FINISHED in states(clone), seconds=60, what="a run to finish")
        cluster.run("scontrol", "requeue", first)
        ends = [cluster.end(job, seconds=150) for job in (first, second)]
    assert ends == ["COMPLETED"] * 2
    assert states(clone) == [State.FINISHED] * 8
