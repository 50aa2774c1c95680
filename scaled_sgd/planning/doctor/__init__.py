"""``scaled-sgd doctor``: examines this machine and this launch."""

from scaled_sgd.planning.doctor.command import main

__all__ = ["main"]
