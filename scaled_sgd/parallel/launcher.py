"""Environment variables that a launcher such as ``accelerate launch`` sets for its processes."""

import os
from collections.abc import Mapping

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that make a process part of a world."""

STARTED_ALONE = (
    "several processes were asked for and one was started (accelerate launch --cpu does that)",
    "--config_file configs/accelerate/cpu.yaml, or --multi_gpu instead of --cpu",
)
"""Explains :func:`started_alone` and what to use instead."""


_STARTER = "SCALED_SGD_STARTER"


def is_starter() -> None:
    """Make the processes that this one starts end with it."""
    os.environ[_STARTER] = str(os.getpid())


def starter() -> int | None:
    """The process that started this one as a rank of its run, and whose end ends it too."""
    started_by = os.environ.pop(_STARTER, None)
    return None if started_by is None else int(started_by)


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """This process's global rank."""
    return int(environment.get("RANK", "0"))


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """This process's rank on its machine."""
    return int(environment.get("LOCAL_RANK", "0"))


def started(environment: Mapping[str, str] = os.environ) -> int:
    """Number of processes that were started."""
    return int(environment.get("WORLD_SIZE", "1"))


def started_here(environment: Mapping[str, str] = os.environ) -> int:
    """Number of processes that were started on this machine."""
    return int(environment.get("LOCAL_WORLD_SIZE", "1"))


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process as part of a world."""
    return "WORLD_SIZE" in environment


def started_alone(asked: int | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher was told to start several processes but started only one.

    ``accelerate launch`` does so with ``--cpu`` or with one GPU.
    """
    return "MASTER_PORT" in environment and not is_launched(environment) and asked != 1
