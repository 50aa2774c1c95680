"""Signals that end or save a run after the current step, known to all processes at the same step."""

import signal
import threading
import time
from enum import IntEnum
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

_SECONDS_BETWEEN_EXCHANGES = 0.1
_MOST_STEPS_BETWEEN_EXCHANGES = 100


class Wish(IntEnum):
    """What one process wants of all; the largest wins."""

    NOTHING = 0
    SAVE = 1
    STOP_USR1 = 2
    STOP_INTERRUPT = 3
    STOP_TERMINATE = 4

    @property
    def signal(self) -> signal.Signals | None:
        """The signal behind a wish to stop."""
        return next((number for number, wish in _WISHES.items() if wish == self), None)


_WISHES = {
    signal.SIGUSR1: Wish.STOP_USR1,
    signal.SIGINT: Wish.STOP_INTERRUPT,
    signal.SIGTERM: Wish.STOP_TERMINATE,
}


class Interrupts:
    """While open, SIGTERM, SIGUSR1 and SIGINT are remembered instead of ending the process.

    Schedulers and launchers send a signal more than once; only a second SIGINT, from a person who does not
    want to wait, ends the process at once.
    """

    def __init__(self) -> None:
        self.wish = Wish.NOTHING
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in _WISHES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # The signal that ended the run comes again while it leaves.
            signal.signal(number, signal.SIG_IGN if self.wish > Wish.SAVE else handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.wish == Wish.STOP_INTERRUPT:
            raise KeyboardInterrupt
        self.wish = max(self.wish, _WISHES[signal.Signals(number)])


class Exchange:
    """The largest wish of all processes, the same on each at each step.

    One all-reduce of two numbers among the CPUs, ten times a second at most, that a step starts and the
    next exchange waits for: no step waits for another process because of it, and no device is asked.
    """

    def __init__(self) -> None:
        several = dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo") if several else None
        self._pending: tuple[torch.Tensor, Any] | None = None
        self._steps = self._interval = 1
        self._saved = False
        self._started = time.monotonic()

    def __call__(self, wish: Wish) -> Wish:
        """Tell this process's wish; what all know of by now. Collective."""
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
            # What was wished for before a save became known is done with it.
            if agreed == Wish.SAVE and self._saved:
                agreed = Wish.NOTHING
            self._saved = agreed == Wish.SAVE
        numbers = torch.tensor([int(wish), self._wanted_interval()])
        self._pending = (numbers, dist.all_reduce(numbers, dist.ReduceOp.MAX, self._group, async_op=True))
        self._steps = self._interval
        return agreed

    def finish(self) -> None:
        """Wait for what is under way. Collective."""
        if self._pending is not None:
            self._pending[1].wait()
            self._pending = None

    def _wanted_interval(self) -> int:
        now = time.monotonic()
        seconds = (now - self._started) / self._interval
        self._started = now
        return min(
            max(int(_SECONDS_BETWEEN_EXCHANGES / max(seconds, 1e-9)), 1), _MOST_STEPS_BETWEEN_EXCHANGES
        )
