"""Processes that train the small runs of a study, one task at a time each."""

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from scaled_sgd.study.attempt import DataShelf, Train, attempt
from scaled_sgd.study.child_processes import die_with_parent
from scaled_sgd.study.folder import StudyFolder
from scaled_sgd.study.grid import Run

Task = Sequence[Run]
"""Runs that are trained together; mostly one."""
Told = Callable[[Run, str], None]
"""Called with each run that ends, and how."""


def run_tasks(tasks: Sequence[Task], folder: StudyFolder, train: Train, *, workers: int, told: Told) -> None:
    """Train all tasks, longest first as given, in ``workers`` processes; in this one where that is enough.

    A worker that dies takes its runs down as failed, and another takes its place.
    """
    if workers == 1 or len(tasks) <= 1:
        shelf, threads = DataShelf(), torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for task in tasks:
                for run, status in zip(task, attempt(task, folder, train, shelf), strict=True):
                    told(run, status)
        finally:
            torch.set_num_threads(threads)
        return
    with _pool(min(workers, len(tasks)), folder, train) as pool:
        pool.run(tasks, told)


class _Worker:
    """A process with a pipe, and the task it has."""

    def __init__(self, place: int, folder: StudyFolder, train: Train) -> None:
        context = multiprocessing.get_context("spawn")
        self.place, self.task = place, None  # type: tuple[int, Task | None]
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, place, folder, train), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        self.task = task
        # A worker that has died meanwhile is found out when it does not answer.
        with contextlib.suppress(OSError):
            self.pipe.send(task)


class _Pool:
    def __init__(self, count: int, folder: StudyFolder, train: Train) -> None:
        self._folder, self._train = folder, train
        self.workers = [_Worker(place, folder, train) for place in range(count)]

    def run(self, tasks: Sequence[Task], told: Told) -> None:
        waiting = deque(tasks)
        for worker in self.workers:
            if waiting:
                worker.give(waiting.popleft())
        while busy := [worker for worker in self.workers if worker.task is not None]:
            ready = wait([worker.pipe for worker in busy])
            for worker in (worker for worker in busy if worker.pipe in ready):
                assert worker.task is not None
                for run, status in zip(worker.task, self._ended(worker, worker.task), strict=True):
                    told(run, status)
                idle = self.workers[worker.place]
                idle.task = None
                if waiting:
                    idle.give(waiting.popleft())

    def _ended(self, worker: _Worker, task: Task) -> list[str]:
        """How the worker's runs ended; a dead worker is replaced."""
        try:
            statuses: list[str] = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            code = worker.process.exitcode or 0
            cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            for run in task:
                self._folder.fail(run.id, f"its process was ended by {cause}, perhaps for want of memory")
            statuses = ["failed"] * len(task)
            self.workers[worker.place] = _Worker(worker.place, self._folder, self._train)
        return statuses


@contextlib.contextmanager
def _pool(count: int, folder: StudyFolder, train: Train) -> Iterator[_Pool]:
    pool = _Pool(count, folder, train)
    try:
        yield pool
    finally:
        for worker in pool.workers:
            worker.process.kill()
        for worker in pool.workers:
            worker.process.join()


def _work(pipe: "Connection[Any, Any]", place: int, folder: StudyFolder, train: Train) -> None:
    """Take tasks until the pipe is closed, as it is when the process that gives them is gone."""
    # Ctrl-C reaches the whole group, and Slurm's signals all of a job: the parent ends its workers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        # Leave no run to a worker whose study is gone: another process may take it up at once.
        die_with_parent(signal.SIGKILL, parent.pid)
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
