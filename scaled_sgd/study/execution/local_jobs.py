"""Jobs on this machine that end with the process that submitted them."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import torch

from scaled_sgd.study.execution.assignment import MAX_TIMEOUTS, Assignment
from scaled_sgd.study.execution.jobs import record

_SECONDS_BETWEEN_LOOKS = 0.2

_SECONDS_TO_STOP = 90.0
"""For a job that is told to stop; longer than it gives a large run to save."""


def visible_gpus() -> list[int]:
    """Indices of the GPUs of this machine that jobs may use."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    numbers = [int(name) for name in named if name.strip().isdigit()]
    return numbers if len(numbers) == there else list(range(there))


def make_locally(
    job: Assignment, parts: Sequence[Sequence[str]], logs: Path, *, at_once: int, minutes: int, warning: int
) -> list[str]:
    """Run jobs, a limited number at a time, since submitit starts all at once; returns their names.

    Args:
        job: the function of every job.
        parts: the runs of each job.
        logs: folder of the jobs.
        at_once: number of jobs at a time, each with a GPU if there is one.
        minutes: time limit of a job, after which it is restarted.
        warning: seconds of warning before the time limit.
    """
    import submitit

    gpus, slots, stopped = visible_gpus(), SimpleQueue[int](), threading.Event()
    for slot in range(at_once):
        slots.put(slot)

    def make(runs: Sequence[str]) -> str:
        slot = slots.get()
        mine = [gpus[slot % len(gpus)]] if gpus else []
        executor = submitit.LocalExecutor(folder=logs, max_num_timeout=MAX_TIMEOUTS)
        executor.update_parameters(
            timeout_min=minutes, signal_delay_s=warning, gpus_per_node=len(mine), visible_gpus=mine
        )
        submitted = executor.submit(job, runs)
        name = str(submitted.job_id)
        record(logs, "local", [name])
        stopping = 0.0
        while not submitted.done():
            if stopped.is_set():
                # The controller forwards the signal as soon as it can; killed, it takes its job with it.
                deaf = stopping > _SECONDS_TO_STOP
                os.kill(int(name), signal.SIGKILL if deaf else signal.SIGTERM)
                stopping += _SECONDS_BETWEEN_LOOKS
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        slots.put(slot)
        return name

    # Jobs do not get Ctrl-C, which would end their controllers with a traceback: they are signalled instead.
    ignored = (signal.SIG_BLOCK, {signal.SIGINT})
    with ThreadPoolExecutor(at_once, "", signal.pthread_sigmask, ignored) as threads:
        try:
            return list(threads.map(make, parts))
        finally:
            stopped.set()
