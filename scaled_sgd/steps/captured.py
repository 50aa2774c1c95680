"""Steps captured once for each shape and replayed: one CUDA graph instead of hundreds of launches (ours).

A captured step works on fixed addresses: x, y and η are copied into its own tensors, weights and velocities
are updated where they are. Steps before it run the same function, so that rounding does not depend on when a
run was resumed. Of several processes all replay a step or none does, since a collective of a graph waits for
the same graph of the others.
"""

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from scaled_sgd.parallel import Ranks
from scaled_sgd.steps.step import Taken

T = TypeVar("T")

WARM_UP = 2
"""Steps of a shape before it is captured; they fill what is computed once."""

Body = Callable[[Tensor, Tensor, Tensor, int, bool], Taken]
"""Takes a step on x, y at the rates η, of a global minibatch of n samples; whether it is measured."""


class Capture(Protocol):
    """Captures the work of a function on a device."""

    def warm_up(self, function: Callable[[], T]) -> T:
        """Run ``function`` before it is captured."""
        ...

    def capture(self, function: Callable[[], T]) -> Callable[[], T]:
        """Capture ``function`` without running it. The returned call runs it, with results in place.

        The caller keeps all tensors that ``function`` reads: a replay finds them by their addresses only.

        Raises:
            RuntimeError: it cannot be captured.
        """
        ...


@cache
def _side_stream(_device: int) -> "torch.cuda.Stream":
    """The stream of a device for all captures: libraries keep a workspace for every stream that they saw."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call, no-any-return, unused-ignore]


class CudaGraphs:
    """Captures CUDA graphs, each in a memory pool of its own."""

    def warm_up(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the stream of captures."""
        here, side = torch.cuda.current_stream(), _side_stream(torch.cuda.current_device())
        side.wait_stream(here)
        with torch.cuda.stream(side):
            taken = function()
        here.wait_stream(side)
        return taken

    def capture(self, function: Callable[[], T]) -> Callable[[], T]:
        """Capture ``function`` as a graph."""
        graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
        torch.cuda.synchronize()
        # While it captures, the allocator cannot free what it holds for later. torch.cuda.graph always frees
        # it, which takes longer than a capture and all allocations after it.
        free, total = torch.cuda.mem_get_info()
        if free < total // 2:
            torch.cuda.empty_cache()
        # What is collected meanwhile may be a graph, whose end is not allowed during a capture.
        gc.disable()
        try:
            with torch.cuda.stream(_side_stream(torch.cuda.current_device())):
                # Other threads, which read data ahead, may go on.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    taken = function()
                finally:
                    graph.capture_end()
        finally:
            if collects:
                gc.enable()

        def replay() -> T:
            graph.replay()
            return taken

        return replay


def why_failed(error: BaseException) -> str:
    """The first line of what made a capture fail, after which its end fails as well."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


class CapturedStep:
    """A step that is captured for each shape that recurs.

    Args:
        body: the step.
        capture: captures it.
        say: called with one line if a step cannot be captured; steps then run as they are.
        ranks: processes that exchange within a step; only this one if None.
    """

    def __init__(
        self, body: Body, capture: Capture, say: Callable[[str], object], *, ranks: Ranks | None = None
    ) -> None:
        self._body, self._say, self._ranks = body, say, Ranks.alone() if ranks is None else ranks
        self._capture: Capture | None = capture
        self._seen: dict[tuple[object, ...], int] = {}
        self._captured: dict[tuple[object, ...], _Captured] = {}

    def forget(self) -> None:
        """Drop all captured steps: tensors that steps work on have been replaced."""
        self._seen.clear()
        self._captured.clear()

    def __call__(
        self, x: Tensor, y: Tensor, lr: Tensor, n: int, *, measure: bool, ready: bool = True
    ) -> Taken:
        """Take a step; nothing is captured while not ``ready``. Only the loss outlives the next step.

        Collective: shapes, which n decides, and all other arguments but x and y are those of every process.
        """
        key = (*x.shape, *y.shape, n, measure)
        if key in self._captured:
            return self._captured[key](x, y, lr)
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._capture is None:
            return self._body(x, y, lr, n, measure)
        if not ready or self._seen[key] <= WARM_UP:
            return self._capture.warm_up(lambda: self._body(x, y, lr, n, measure))
        captured, reason = None, "another process could not"
        try:
            captured = _Captured(self._body, self._capture, x, y, lr, n, measure)
        except RuntimeError as error:
            reason = why_failed(error)
        if not self._everywhere(captured is not None, lr.device):
            self._say(f"steps are not captured as CUDA graphs: {reason}")
            self._capture = None
            return self._body(x, y, lr, n, measure)
        assert captured is not None
        self._captured[key] = captured
        return captured(x, y, lr)

    def _everywhere(self, captured: bool, device: torch.device) -> bool:
        """Whether all processes have captured a step. Collective."""
        if self._ranks.size == 1:
            return captured
        count = self._ranks.sum(torch.tensor(int(captured), device=device))
        return int(count) == self._ranks.size


class _Captured:
    """A captured step with its own x, y and η."""

    def __init__(
        self, body: Body, capture: Capture, x: Tensor, y: Tensor, lr: Tensor, n: int, measure: bool
    ) -> None:
        self._inputs = own = x.clone(), y.clone(), lr.clone()
        self._replay = capture.capture(lambda: body(*own, n, measure))

    def __call__(self, x: Tensor, y: Tensor, lr: Tensor) -> Taken:
        for own, t in zip(self._inputs, (x, y, lr), strict=True):
            own.copy_(t, non_blocking=True)
        taken = self._replay()
        return replace(taken, loss=taken.loss.clone())
