"""Makes an error on one rank an error on all ranks, so that none waits for the others forever."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

from scaled_sgd.core.errors import UserError, error_line

T = TypeVar("T")


@dataclass(frozen=True)
class Mistakes:
    """Which exceptions are reported to other ranks, and how.

    Attributes:
        raises: the exception raised on the other ranks.
        told: the reported exceptions. Others are raised only where they occur, and the other ranks wait.
        expected: those that become ``raises`` also where they occur.
        line: formats an exception as one line.
    """

    raises: type[UserError] = UserError
    told: tuple[type[Exception], ...] = (UserError, OSError)
    expected: tuple[type[Exception], ...] = (UserError, OSError)
    line: Callable[[Exception], str] = error_line


def is_first_rank() -> bool:
    """Whether this is rank 0, or the only process."""
    return not dist.is_initialized() or dist.get_rank() == 0


def on_every_rank(action: Callable[[], T], mistakes: Mistakes = Mistakes()) -> T:
    """Run an action on every rank. Collective.

    Raises:
        mistakes.raises: an exception on any rank; everywhere with the line of the lowest such rank.
    """
    error: Exception | None = None
    try:
        result = action()
    except mistakes.told as raised:
        error = raised
    lines = gather(None if error is None else mistakes.line(error))
    if error is not None and not isinstance(error, mistakes.expected):
        raise error
    for line in lines:
        if line is not None:
            raise mistakes.raises(line) from error
    return result


def from_every_rank(action: Callable[[], T], mistakes: Mistakes = Mistakes()) -> list[T]:
    """Run an action on every rank; all results, by rank. Collective, raises like :func:`on_every_rank`."""
    return gather(on_every_rank(action, mistakes))


def on_first_rank(action: Callable[[], T], mistakes: Mistakes = Mistakes()) -> T | None:
    """Run an action on rank 0 only; None elsewhere. Collective, raises like :func:`on_every_rank`."""
    return on_every_rank(action if is_first_rank() else lambda: None, mistakes)


def from_first_rank(action: Callable[[], T], mistakes: Mistakes = Mistakes()) -> T:
    """Run an action on rank 0; its result on every rank. Collective, raises like :func:`on_every_rank`."""
    shared = [on_first_rank(action, mistakes)]
    if dist.is_initialized():
        dist.broadcast_object_list(shared)
    return shared[0]  # type: ignore[return-value]


def gather(value: T) -> list[T]:
    """Every rank's value, by rank. Collective."""
    values = [value]
    if dist.is_initialized():
        values *= dist.get_world_size()
        dist.all_gather_object(values, value)
    return values
