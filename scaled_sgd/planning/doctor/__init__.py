"""``scaled-sgd doctor``: what this machine and this launch can do."""

from scaled_sgd.planning.doctor.command import main

__all__ = ["main"]
