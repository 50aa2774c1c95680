"""The scripts of launch/, started as users do: one machine, two over a shell, two under a real Slurm."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaled_sgd.runs.records import read_metrics
from tests.distributed.slurm import LoopbackCluster, why_not
from tests.holding import Hold
from tests.launching import PATIENCE, REPOSITORY, environment, free_ports, wait_until

pytestmark = pytest.mark.slow

LAUNCH = REPOSITORY / "launch"
SCRIPTS = ("local.sh", "multinode.sh", "slurm.sbatch")
SMALL = ("--model.depth=3", "--model.base_width=8", "--run.eval_every=0")


def variables(**more: str) -> dict[str, str]:
    """A clean environment whose scripts start the interpreter under test on CPUs."""
    inherited = {name: value for name, value in environment().items() if not name.startswith("SLURM")}
    return inherited | {"VENV": sys.prefix, "SAVE_SECONDS": "3"} | more


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what the scripts read."""
    for folder in ("launch", "configs"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    return tmp_path


def start(script: str, *arguments: str, cwd: Path, **more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["bash", f"launch/{script}", *arguments],
        cwd=cwd,
        env=variables(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def summary(clone: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((clone / f"runs/{name}/summary.json").read_text())
    return found


def steps(clone: Path, name: str) -> list[int]:
    path = clone / f"runs/{name}/metrics.jsonl"
    return [row["step"] for row in read_metrics(path)] if path.exists() else []


def trainers(name: str) -> list[int]:
    """Processes of the trainer that were started with ``--run.name=<name>``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"--run.name={name}".encode() in words and any(b"scaled_sgd.train" in word for word in words):
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_header(script):
    shown = subprocess.run(["bash", LAUNCH / script, "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("Train on ")
    for name in ("COMMAND", "CONFIG", "ACCELERATE_CONFIG", "VENV", "Exit status"):
        assert f"{name} " in shown.stdout or f"{name}:" in shown.stdout
    assert "set -euo pipefail" in (LAUNCH / script).read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_variable_of_a_script_is_in_the_documentation(script):
    documentation = (REPOSITORY / "docs/launching.md").read_text(encoding="utf-8")
    documented = set(
        re.findall(r"^#   ([A-Z_]+(?:, [A-Z_]+)*)  ", (LAUNCH / script).read_text(), re.MULTILINE)
    )
    assert len(documented) >= 5
    for name in ", ".join(documented).split(", "):
        assert f"`{name}`" in documentation
        assert f"{{{name}" in (LAUNCH / script).read_text() or f"${name}" in (LAUNCH / script).read_text()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    checked = subprocess.run(
        ["shellcheck", *(str(LAUNCH / script) for script in SCRIPTS)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("script", "given", "expected"),
    [
        ("local.sh", {"CONFIG": "none.yaml"}, "error: CONFIG: no file 'none.yaml'"),
        ("local.sh", {"PROCESSES": "two"}, "error: PROCESSES: 'two' is not usable; allowed: integers from 1"),
        ("local.sh", {"COMMAND": "sing"}, "error: COMMAND: 'sing' is unknown; allowed: train, doctor"),
        ("multinode.sh", {}, "error: NODES: not set; allowed: HOSTS, or NODES, NODE_RANK and HEAD"),
        (
            "multinode.sh",
            {"NODES": "2", "NODE_RANK": "2", "HEAD": "127.0.0.1"},
            "error: NODE_RANK: '2' is not usable; allowed: 0 to 1",
        ),
        ("slurm.sbatch", {}, "error: launch/slurm.sbatch: this is not a Slurm job; start it with sbatch"),
    ],
)
def test_a_mistake_is_one_line(script, given, expected, clone):
    started = start(script, cwd=clone, **given)
    output, errors = started.communicate(timeout=PATIENCE)
    assert (started.returncode, output, errors) == (2, "", f"{expected}\n")


def test_a_stopped_local_launch_leaves_nobody_behind(clone):
    """Of one process too, which accelerate launch without a configuration file would leave behind."""
    name = f"stopped-{os.getpid()}"
    started = start(
        "local.sh", *SMALL, "--optim.steps=1000000", f"--run.name={name}", cwd=clone, PROCESSES="1"
    )
    wait_until(lambda: len(steps(clone, name)) > 2, what="the first steps")
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=PATIENCE)
    assert started.returncode != 0
    assert trainers(name) == []


@pytest.mark.full
def test_one_command_a_machine_makes_one_world(clone):
    """As :func:`test_hosts_are_one_world_that_ends_with_its_starter`, whose hosts get these variables."""
    (port,) = free_ports(1)
    common = {"NODES": "2", "HEAD": "127.0.0.1", "PORT": str(port), "PROCESSES_PER_NODE": "1"}
    arguments = (*SMALL, "--optim.steps=10", "--run.name=by-hand")
    machines = [start("multinode.sh", *arguments, cwd=clone, NODE_RANK=str(r), **common) for r in range(2)]
    for machine in machines:
        _, errors = machine.communicate(timeout=PATIENCE)
        assert machine.returncode == 0, errors
    assert summary(clone, "by-hand")["world_size"] == 2


def test_hosts_are_one_world_that_ends_with_its_starter(clone):
    """A shell stands in for ssh: it drops the host's name and runs the line."""
    shell = clone / "shell"
    shell.write_text('#!/bin/sh\nshift\nexec sh -c "$1"\n')
    shell.chmod(0o755)
    (port,) = free_ports(1)
    name = f"hosts-{os.getpid()}"
    started = start(
        "multinode.sh", *SMALL, "--optim.steps=1000000", f"--run.name={name}", cwd=clone,
        HOSTS="one two", HEAD="127.0.0.1", PORT=str(port), PROCESSES_PER_NODE="1", SSH=str(shell),
    )  # fmt: skip
    wait_until(lambda: len(steps(clone, name)) > 2, what="the first steps")
    ranks = [
        pid for pid in trainers(name) if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]
    assert len(ranks) == 1
    assert b"WORLD_SIZE=2" in Path(f"/proc/{ranks[0]}/environ").read_bytes().split(b"\0")
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=PATIENCE)
    assert started.returncode == 1
    wait_until(lambda: trainers(name) == [], what="all trainers to end")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LoopbackCluster]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, LoopbackCluster(Path(folder)) as started:
        yield started


def submit(cluster: LoopbackCluster, clone: Path, *arguments: str) -> str:
    script = Path("launch/slurm.sbatch")
    return cluster.submit(script, *SMALL, *arguments, cwd=clone, variables=variables(PROCESSES_PER_NODE="1"))


@pytest.mark.full
def test_a_slurm_job_is_one_world_over_its_nodes(cluster, clone):
    job = submit(cluster, clone, "--optim.steps=10")
    state = cluster.end(job)
    log = (clone / f"{job}.log").read_text()
    assert state == "COMPLETED", log
    assert f"job {job}: 2 processes on n[1-2]" in log
    assert summary(clone, f"scaled-sgd-{job}")["world_size"] == 2


@pytest.mark.full
def test_requeued_jobs_go_on_where_they_were(cluster, clone):
    """One is preempted, the other is told that its time limit is near, as Slurm tells it."""
    # Several processes end within 300 steps of a signal, so that a run held before step 60 does not end.
    held, total = 60, 600
    jobs = []
    for name in ("preempted", "told"):
        (clone / name).mkdir()
        hold = Hold(clone / name)
        every = f"--run.eval_every={held}"
        job = submit(
            cluster,
            clone,
            f"--optim.steps={total}",
            "--run.log_every=1",
            every,
            f"--run.metrics=[{hold.script}]",
        )
        jobs.append((job, hold))
    reasons = (("scontrol", "requeue"), ("scancel", "--signal=USR1", "--batch"))
    for (job, hold), reason in zip(jobs, reasons, strict=True):
        wait_until(lambda hold=hold: hold.holds, what=f"job {job} to hold")
        cluster.run(*reason, job)
    for job, _ in jobs:
        wait_until(lambda job=job: cluster.state(job) == "PENDING", what=f"job {job} to be queued")
        cluster.start_again(job)
    for job, _ in jobs:
        state = cluster.end(job)
        log = (clone / f"{job}.log").read_text()
        assert [f"restart {number}" in log for number in range(3)] == [True, True, False]
        assert state == "COMPLETED", log
        assert f"job {job}: 2 processes on n[1-2]" in log
        assert summary(clone, f"scaled-sgd-{job}")["world_size"] == 2
        assert_resumed(clone, f"scaled-sgd-{job}", log.splitlines(), total)
        print(log)


def assert_resumed(clone: Path, name: str, log: list[str], total: int) -> None:
    """One run in two parts, with every step once."""
    for beginning in ("interrupted: ", "resumed: "):
        assert sum(line.startswith(beginning) for line in log) == 1
    assert summary(clone, name)["steps"] == total
    logged = Counter(steps(clone, name))
    assert set(range(total)) <= set(logged)
    assert set(logged.values()) == {1}
