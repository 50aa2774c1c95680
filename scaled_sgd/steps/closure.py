"""What a closure given to an optimizer's step computes."""

from collections.abc import Callable
from typing import Any

import torch


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """The loss of ``closure``, with gradients; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
