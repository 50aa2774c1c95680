"""Signals that save or end a run after the current step, agreed on by all processes at the same step."""

import signal
import threading
import time
from enum import IntEnum
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from scaled_sgd.parallel.endings import hangs_up

_SECONDS_BETWEEN_ROUNDS = 0.1
_MOST_STEPS_BETWEEN_ROUNDS = 100


class Wish(IntEnum):
    """A request of one process to all; the largest wins."""

    NOTHING = 0
    SAVE = 1
    STOP_USR1 = 2
    STOP_HANGUP = 3
    STOP_INTERRUPT = 4
    STOP_TERMINATE = 5

    @property
    def signal(self) -> signal.Signals | None:
        """The signal behind a request to stop."""
        return next((number for number, wish in _WISHES.items() if wish == self), None)


_WISHES = {
    signal.SIGUSR1: Wish.STOP_USR1,
    signal.SIGHUP: Wish.STOP_HANGUP,
    signal.SIGINT: Wish.STOP_INTERRUPT,
    signal.SIGTERM: Wish.STOP_TERMINATE,
}


class Interrupts:
    """While open, SIGTERM, SIGUSR1, SIGINT and SIGHUP are recorded instead of ending the process.

    Schedulers and launchers send signals repeatedly; only a second SIGINT, from an impatient user, ends the
    process at once. SIGHUP stays ignored under ``nohup``.
    """

    def __init__(self) -> None:
        self.wish = Wish.NOTHING
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            numbers = [number for number in _WISHES if number != signal.SIGHUP or hangs_up()]
            self._before = {number: signal.signal(number, self._remember) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # The signal that ended the run may arrive again during the exit.
            signal.signal(number, signal.SIG_IGN if self.wish > Wish.SAVE else handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.wish == Wish.STOP_INTERRUPT:
            raise KeyboardInterrupt
        self.wish = max(self.wish, _WISHES[signal.Signals(number)])


class Consensus:
    """The largest request of all processes, the same on each at each step.

    One all-reduce of two numbers on the CPU, at most ten times a second. A step starts it and the next
    call waits for it, so that no step waits for another process or for the device.
    """

    def __init__(self) -> None:
        several = dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo") if several else None
        self._pending: tuple[torch.Tensor, Any] | None = None
        self._steps = self._interval = 1
        self._saved = False
        self._started = time.monotonic()

    def __call__(self, wish: Wish) -> Wish:
        """Send this process's request; returns the request known to all by now. Collective."""
        if self._group is None:
            return wish
        self._steps -= 1
        if self._steps > 0:
            return Wish.NOTHING
        agreed = Wish.NOTHING
        if self._pending is not None:
            numbers, work = self._pending
            work.wait()
            agreed, self._interval = Wish(int(numbers[0])), int(numbers[1])
            # A save also fulfils the requests made before it was agreed on.
            if agreed == Wish.SAVE and self._saved:
                agreed = Wish.NOTHING
            self._saved = agreed == Wish.SAVE
        numbers = torch.tensor([int(wish), self._wanted_interval()])
        self._pending = (numbers, dist.all_reduce(numbers, dist.ReduceOp.MAX, self._group, async_op=True))
        self._steps = self._interval
        return agreed

    def finish(self) -> None:
        """Wait for pending communication. Collective."""
        if self._pending is not None:
            self._pending[1].wait()
            self._pending = None

    def _wanted_interval(self) -> int:
        now = time.monotonic()
        seconds = (now - self._started) / self._interval
        self._started = now
        return min(max(int(_SECONDS_BETWEEN_ROUNDS / max(seconds, 1e-9)), 1), _MOST_STEPS_BETWEEN_ROUNDS)
