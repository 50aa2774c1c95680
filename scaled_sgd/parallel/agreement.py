"""What goes wrong on one rank goes wrong on all, so that none waits for the others for ever."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

from scaled_sgd.core.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Mistakes:
    """Which exceptions are told to other ranks, and how.

    Attributes:
        raises: what one becomes there.
        told: these exceptions. Others are raised where they happen, and the other ranks wait.
        expected: those of them that become ``raises`` where they happened, too.
        line: one in a line.
    """

    raises: type[UserError] = UserError
    told: tuple[type[Exception], ...] = (UserError,)
    expected: tuple[type[Exception], ...] = (UserError,)
    line: Callable[[Exception], str] = str


def is_first_rank() -> bool:
    """Whether this is rank 0, or the only process."""
    return not dist.is_initialized() or dist.get_rank() == 0


def on_every_rank(action: Callable[[], T], mistakes: Mistakes = Mistakes()) -> T:
    """Do something on every rank. Collective.

    Raises:
        mistakes.raises: a mistake on any rank; the line of the lowest such rank everywhere.
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


def on_first_rank(action: Callable[[], T], mistakes: Mistakes = Mistakes()) -> T | None:
    """Do something on rank 0 alone, None elsewhere. Collective, raises as :func:`on_every_rank`."""
    return on_every_rank(action if is_first_rank() else lambda: None, mistakes)


def from_first_rank(action: Callable[[], T], mistakes: Mistakes = Mistakes()) -> T:
    """What an action gives on rank 0, on every rank. Collective, raises as :func:`on_every_rank`."""
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
