"""Real processes for tests: copies of one that has imported everything, and gloo groups of them."""

import datetime
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.copies import ready


def start_processes(fn: Callable[..., Any], count: int, *args: Any) -> None:
    """Run ``fn(rank, *args)`` in ``count`` processes to their end; what one raises is raised here."""
    ready()
    mp.start_processes(fn, args, nprocs=count, start_method="forkserver")


def run_processes(fn: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Run ``fn(*args)`` in ``world_size`` processes that share a gloo group; results by rank.

    ``fn`` is a module-level function; it learns its rank from ``torch.distributed`` and returns
    something picklable. A failure in any process raises here.
    """
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_process, world_size, world_size, folder, fn, args)
        files = (Path(folder, f"result-{rank}") for rank in range(world_size))
        return [pickle.loads(file.read_bytes()) for file in files]


def _process(rank: int, world_size: int, folder: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=Path(folder, "rendezvous").as_uri(),
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=60),
    )
    try:
        Path(folder, f"result-{rank}").write_bytes(pickle.dumps(fn(*args)))
        dist.barrier()
    finally:
        dist.destroy_process_group()
