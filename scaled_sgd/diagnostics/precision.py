"""Diagnostics compute in the weights' precision."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Full float32 products even when training runs in TF32, whose products have three significant digits."""
    shorter = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = shorter


P = ParamSpec("P")
T = TypeVar("T")


def without_autocast(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator that leaves an autocast context of the caller."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with ExitStack() as contexts:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    contexts.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return call
