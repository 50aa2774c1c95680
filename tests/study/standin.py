"""Stand-ins for tests of what runs studies: quick, and with the faults and waits that a test asks for."""

import contextlib
import importlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

from tqdm.auto import tqdm

from scaled_sgd.study import command
from scaled_sgd.study.execution import local_jobs
from scaled_sgd.study.folder import StudyFolder

study_command = command.main


def train(configs, data, folders):
    """A file ``hold-SEED`` in the folder of the study keeps runs of that seed from ending."""
    found = []
    # A named semaphore would stay behind when its process is killed, and be warned of.
    assert isinstance(tqdm.get_lock(), type(threading.RLock())) or multiprocessing.parent_process() is None
    for config, folder in zip(configs, folders, strict=True):
        (folder / "metrics.jsonl").write_text('{"step": 0}\n')
        time.sleep(0.02)
        while (folder.parents[1] / f"hold-{config.run.seed}").exists():
            time.sleep(0.01)
        if config.optim.lr == 13:
            raise ZeroDivisionError("by design")
        if config.optim.lr == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        summary = {"status": "diverged" if config.optim.lr > 50 else "finished", "seed": config.run.seed}
        with open(folder.parents[1] / "log", "a") as log:
            log.write(f"{folder.name}\n")
        (folder / "summary.json").write_text(json.dumps(summary))
        found.append(summary)
    return found


def nothing(config):
    return None


def hold(arguments):
    """``scaled-sgd study run --share RUNS`` that never ends: it holds the first of its runs."""
    options = dict(itertools.pairwise(arguments))
    folder = StudyFolder(Path(options["--dir"], options["--name"]))
    with folder.hold(options["--share"].split(",")[0]):
        while True:
            signal.pause()


def deaf(arguments):
    """As :func:`hold`, and no interrupt ends it."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            hold(arguments)


def wait_for_go(arguments):
    """``scaled-sgd study`` that begins once the working folder has a file ``go``."""
    while not Path("go").exists():
        time.sleep(0.1)
    return study_command(arguments)


def with_jobs_of(name):
    """``scaled-sgd study`` as a function, whose jobs are one of these stand-ins."""
    # By their module's name, so that a job finds them.
    local_jobs._SECONDS_TO_STOP = 2.0
    command.main = getattr(importlib.import_module("tests.study.standin"), name)
    return study_command
