"""Worker processes that train the small runs of a study, one task at a time each."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import torch
from tqdm.auto import tqdm

from scaled_sgd.parallel.endings import end_with
from scaled_sgd.study.folder import State, StudyFolder
from scaled_sgd.study.grid import Run
from scaled_sgd.study.small.attempt import DataShelf, Train, attempt

Task = Sequence[Run]
"""Runs that are trained together; usually one."""
Told = Callable[[Run, str], None]
"""Called with each run that ends, and how."""


def run_tasks(tasks: Sequence[Task], folder: StudyFolder, train: Train, *, workers: int, told: Told) -> None:
    """Train all tasks in the given order, in ``workers`` processes; in this process if one is enough.

    If a worker dies, its runs count as failed and a new worker replaces it.
    """
    if workers == 1 or len(tasks) <= 1:
        shelf, threads = DataShelf(), torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for task in tasks:
                _tell(told, task, attempt(task, folder, train, shelf))
        finally:
            torch.set_num_threads(threads)
    else:
        _run_in_processes(tasks, folder, train, min(workers, len(tasks)), told)


def _run_in_processes(
    tasks: Sequence[Task], folder: StudyFolder, train: Train, count: int, told: Told
) -> None:
    """One thread per worker, which it starts with its first task."""
    workers: dict[int, _Worker] = {}
    stopped, places = threading.Event(), SimpleQueue[int]()
    for place in range(count):
        places.put(place)

    def make(task: Task) -> list[str]:
        place = places.get()
        worker = workers.get(place) or workers.setdefault(place, _Worker(place, folder, train))
        if stopped.is_set():
            worker.process.kill()
        try:
            return worker.make(task)
        except (EOFError, OSError):
            cause = workers.pop(place).cause_of_death()
            for run in () if stopped.is_set() else task:
                folder.fail(run.id, f"its process was ended by {cause}, perhaps for want of memory")
            return [State.FAILED.value] * len(task)
        finally:
            places.put(place)

    with ThreadPoolExecutor(count) as threads:
        futures = {threads.submit(make, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                _tell(told, futures[future], future.result())
        finally:
            # Runs in progress stay pending.
            stopped.set()
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in list(workers.values()):
                worker.process.kill()


def _tell(told: Told, task: Task, statuses: Sequence[str]) -> None:
    for run, status in zip(task, statuses, strict=True):
        told(run, status)


class _Worker:
    """A process with a pipe, on the ``place``-th GPU if there are GPUs."""

    def __init__(self, place: int, folder: StudyFolder, train: Train) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, os.getpid(), place, folder, train)
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def make(self, task: Task) -> list[str]:
        """Train a task; returns how its runs ended. Raises EOFError or OSError if the process died."""
        self._pipe.send(task)
        statuses: list[str] = self._pipe.recv()
        return statuses

    def cause_of_death(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _work(pipe: "Connection[Any, Any]", study: int, place: int, folder: StudyFolder, train: Train) -> None:
    """Take tasks until the pipe is closed or the process of the study has ended."""
    # Ctrl-C reaches the whole process group, and Slurm's signals a whole job: the study ends its workers.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    end_with(study, signal.SIGKILL)
    # Otherwise the first bar makes a named semaphore, which a process that is killed leaves behind.
    tqdm.set_lock(threading.RLock())
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
    shelf = DataShelf()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(attempt(task, folder, train, shelf))
