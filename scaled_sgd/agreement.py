"""Mistakes that one rank finds become mistakes of all ranks, so that none waits for the others for ever."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from scaled_sgd.errors import UserError

T = TypeVar("T")


def on_every_rank(action: Callable[[], T]) -> T:
    """Do something on every rank; the lowest rank's UserError, if any, is raised on all. Collective."""
    result, mistake = _try(action)
    mistakes: list[str | None] = [mistake]
    if dist.is_initialized():
        mistakes = [None] * dist.get_world_size()
        dist.all_gather_object(mistakes, mistake)
    for found in mistakes:
        if found is not None:
            raise UserError(found)
    assert result is not None
    return result[0]


def on_first_rank(action: Callable[[], T]) -> T | None:
    """Do something on rank 0 alone, None elsewhere; its UserError is raised on every rank. Collective."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    return on_every_rank(action if first else lambda: None)


def from_first_rank(action: Callable[[], T]) -> T:
    """What an action gives on rank 0, on every rank; its UserError likewise. Collective."""
    result = on_first_rank(action)
    shared = [result]
    if dist.is_initialized():
        dist.broadcast_object_list(shared)
    return shared[0]  # type: ignore[return-value]


def _try(action: Callable[[], T]) -> tuple[tuple[T] | None, str | None]:
    try:
        return (action(),), None
    except UserError as error:
        return None, str(error)
