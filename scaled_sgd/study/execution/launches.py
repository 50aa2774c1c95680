"""Launches large runs: each by ``scaled-sgd train`` in its own processes, from its last checkpoint."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from scaled_sgd.config import as_dict
from scaled_sgd.parallel import launcher
from scaled_sgd.runs.locks import HeldError, Lock
from scaled_sgd.runs.own_files import make_folder, open_file, read_text
from scaled_sgd.runs.records import write_atomically
from scaled_sgd.study.folder import State, StudyFolder
from scaled_sgd.study.grid import Run

_STOPPED = (129, 130, 138, 143)
_SECONDS_TO_SAVE = 60.0

_under_way: "list[subprocess.Popen[bytes]]" = []


def stop_launched(seconds: float = _SECONDS_TO_SAVE) -> None:
    """Make the launched run, if any, save and end; wait at most this long for it."""
    end = time.monotonic() + seconds
    # This may run in a signal handler that interrupted a wait for the same process.
    asked = os.WEXITED | os.WNOHANG | os.WNOWAIT
    for process in _under_way:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < end and os.waitid(os.P_PID, process.pid, asked) is None:
                time.sleep(0.1)


def launch(run: Run, folder: StudyFolder) -> str:
    """Train a large run on all GPUs of this machine, from its newest checkpoint; returns how it ended.

    Raises:
        KeyboardInterrupt: a signal ended it; it resumes from there next time.
    """
    try:
        lock = folder.hold(run.id)
    except HeldError:
        return State.RUNNING.value
    with lock:
        state = folder.state(run.id)
        return state.value if state.ended else _launch(run, folder, lock)


def _launch(run: Run, folder: StudyFolder, lock: Lock) -> str:
    place, files = folder.begin(run.id, keep=True), folder.path / "launches"
    make_folder(files)
    config = as_dict(run.config)
    processes = run.config.run.processes or _gpus(run)
    config["run"] |= {"name": run.id, "dir": str(place.parent), "resume": "auto", "processes": processes}
    path, log = (files / f"{run.id}.{kind}" for kind in ("yaml", "log"))
    write_atomically(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    status = _train(path, log, lock)
    state = folder.state(run.id)
    if state.ended:
        return state.value
    if status in _STOPPED:
        raise KeyboardInterrupt
    lines = read_text(log).strip().splitlines()
    folder.fail(run.id, f"exit status {status}: {lines[-1] if lines else 'it said nothing'}")
    return State.FAILED.value


def _train(config: Path, log: Path, lock: Lock) -> int:
    """The exit status of the trainer, which holds ``lock`` until it ends, even if this process ends first."""
    environment = {name: value for name, value in os.environ.items() if name not in launcher.VARIABLES}
    trainer = [sys.executable, "-m", "scaled_sgd.study.execution.launched", str(os.getpid())]
    with os.fdopen(open_file(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as output:
        process = subprocess.Popen(
            [*trainer, "--config", str(config)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.descriptor,),
        )
    _under_way.append(process)
    try:
        return process.wait()
    except BaseException:
        stop_launched()
        raise
    finally:
        _under_way.remove(process)


def _gpus(run: Run) -> int:
    there = torch.cuda.is_available() and run.config.run.device != "cpu"
    return torch.cuda.device_count() if there else 1
