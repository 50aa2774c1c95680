"""The training loop, with processes, strategies and interrupts."""

from typing import TYPE_CHECKING

from scaled_sgd.core.lazy import attach

if TYPE_CHECKING:
    from scaled_sgd.train.api import train

__all__ = ["train"]

__getattr__, __dir__ = attach(__name__, {"train": "train.api"})
