"""Settings of the whole suite."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from hypothesis import settings

from scaled_sgd.parallel.machine import cores
from tests.copies import serve_workers
from tests.examples import SUITE

# Two or four processes share the machine in many tests; nothing here is large enough for threads. torch reads
# it; it is not imported here, as the process that hands out tests needs none.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.load_profile(SUITE)


LONG = (
    "test_one_answer.py",
    "test_launch.py",
    "test_cluster.py",
    "test_processes.py",
    "test_resume.py",
    "test_report.py",
    "test_papers.py",
    "test_faults.py",
    "test_same_numbers.py",
    "test_train.py",
    "test_figures.py",
    "test_readme.py",
    "test_against_measured.py",
    "test_training.py",
    "test_kills.py",
    "test_runner.py",
    "test_launches.py",
    "test_accelerate_configs.py",
    "test_handshake.py",
    "test_doctor.py",
    "test_batched.py",
    "test_data.py",
    "test_collect.py",
    "test_pieces.py",
    "test_engine.py",
    "test_steps.py",
)
"""Files whose tests take longest, first: those of ``make test``, then those of ``make quick``."""


def pytest_configure(config):
    """SIGTERM ends a session as Ctrl-C does, so that fixtures end what they started.

    What the session starts is marked, and its workers share one server of copies, which imports while they
    collect the tests.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        os.environ[MARK] = uuid.uuid4().hex
        if config.getoption("tx", None) and "not slow" not in config.option.markexpr:
            serve_workers()


def pytest_unconfigure(config):
    """Kills what tests have started and left, in whatever group, session or parentage it is by now.

    A failed test may leave a study, a cluster or its jobs. All inherit the mark of this session.
    """
    if not hasattr(config, "workerinput"):
        for process in started_by(os.environ[MARK]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def pytest_xdist_auto_num_workers(config):
    """One more than cores where processes are started: a test waits for them, and they share the cores."""
    return cores() + (0 if "not slow" in config.option.markexpr else 1)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays: no search for garbage there, neither now nor beside the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """The longest files first, then those with most processes: the last ones are to be short."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (places.get(item.path.name, len(LONG)), -slow[item.path]))


MARK = "SCALED_SGD_TESTS"
"""Variable that marks the processes of a session of tests."""


def started_by(mark):
    """Processes with a mark in their environment, except this one and those that multiprocessing ends."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            marked = f"{MARK}={mark}".encode() in (place / "environ").read_bytes().split(b"\0")
            its_own = b"resource_tracker" in (place / "cmdline").read_bytes()
            if marked and not its_own and int(place.name) != os.getpid():
                yield int(place.name)


SHELLS = ("bash", "sh", Path(sys.executable).name)


@pytest.fixture(autouse=True)
def processes_are_started_by_slow_tests_only(request, monkeypatch):
    """What ``make quick`` runs stays in one process: a test that starts others has the marker ``slow``."""
    if request.node.get_closest_marker("slow") is not None:
        return

    def refuse(*_arguments, **_options):
        pytest.fail("this test starts a process; mark it slow")

    open_process = subprocess.Popen.__init__

    def check(self, command, *arguments, **options):
        program = command if isinstance(command, str) else os.fspath(command[0])
        if options.get("shell") or Path(program).name in SHELLS:
            refuse()
        open_process(self, command, *arguments, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", check)
    monkeypatch.setattr(BaseProcess, "start", refuse)


@pytest.fixture(autouse=True, scope="session")
def nothing_waits_for_the_disk_or_for_git():
    """No power fails while tests run in this process; what is no open file is refused as ever.

    Outside of repositories git has nothing to say of a run, whoever starts it to hear that.
    """
    from scaled_sgd.runs import revision

    def outside_git(*arguments, **options):
        here = Path.cwd()
        if not any((folder / ".git").exists() for folder in (here, *here.parents)):
            raise subprocess.CalledProcessError(128, "git")
        return git(*arguments, **options)

    git = revision._git
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        patch.setattr(revision, "_git", outside_git)
        yield


@pytest.fixture(autouse=True)
def signals_keep_their_handlers():
    """A run that a signal ended leaves its process ignoring further ones; the tests' process goes on."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def unseen_pictures(monkeypatch):
    """Figures with their sentences and tables, without pictures, which take longer than all else."""
    from scaled_sgd.study.figures.drawing.drawn import Drawn

    monkeypatch.setattr(Drawn, "settled", lambda self: self)
    monkeypatch.setattr(Drawn, "_rendered", lambda self, kind, **options: b"<svg/>")


@pytest.fixture
def fresh_world(tmp_path, monkeypatch):
    """An empty working folder, no launcher, and an Accelerator that nobody has made before."""
    from accelerate.state import AcceleratorState

    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
