"""The processes of a launch: their number, and the speed of an all-reduce."""

import datetime
import os
import socket
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from scaled_sgd.parallel import launcher
from scaled_sgd.parallel.agreement import gather

_PREFIXES = ("ACCELERATE_", "FSDP_", "GLOO_", "NCCL_")
_SETTINGS_OF_THE_COMPILER = "ACCELERATE_DYNAMO_"
_NAMES = (
    "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SLURM_JOB_ID", "SLURM_JOB_NODELIST",
)  # fmt: skip
_SECONDS_TO_MEET = 60
_SECONDS_A_TEST = 0.8
_LARGE = 2**22
"""Float32 elements of the larger all-reduce, 16 MiB."""


@dataclass(frozen=True)
class AllReduce:
    """Speed of all-reduces. The bandwidth is that of a ring: 2 (n − 1)/n of the bytes per second."""

    backend: str
    latency_us: float
    large_mib: float
    bandwidth_gb_s: float


@dataclass(frozen=True)
class Member:
    """What one rank reports to the others."""

    host: str
    torch: str
    gpus: int


@dataclass(frozen=True)
class Launch:
    """The launch: what was requested, what its variables say, and the result.

    Attributes:
        asked: requested number of processes; None: any.
        started: number of processes according to the launcher (WORLD_SIZE).
        size: number of processes that answered.
        seen_by_accelerate: number of processes that ``accelerate`` sees.
        problem: why this is not the requested world.
    """

    asked: int | None
    started: int
    size: int
    seen_by_accelerate: int
    device: str
    variables: dict[str, str]
    members: tuple[Member, ...]
    all_reduce: AllReduce | None
    problem: str | None


def leave() -> None:
    """Leave the process group that :func:`join` has joined, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def launch_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables that decide how processes connect."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name in _NAMES or (name.startswith(_PREFIXES) and not name.startswith(_SETTINGS_OF_THE_COMPILER))
    }


def launch_problem(asked: int | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """A problem that is evident from the launcher's variables."""
    started = launcher.started(environment)
    if launcher.started_alone(asked, environment):
        problem, instead = launcher.STARTED_ALONE
        return f"{problem}; use {instead}"
    if asked is not None and asked != started:
        return f"{_processes(asked)} asked for, {started} started"
    return None


def join(asked: int | None) -> Launch:
    """Connect to the other processes of this launch and measure. Collective."""
    started = launcher.started()
    gpus, here = torch.cuda.device_count(), launcher.started_here()
    device = torch.device("cuda", launcher.local_rank()) if gpus >= here else torch.device("cpu")
    problem = launch_problem(asked)
    me = Member(_host(), torch.__version__, gpus)
    members, size, measured = [me], 1, None
    try:
        if launcher.is_launched():
            _meet(device)
            size = _count(device)
            members = gather(me)
            measured = _measure(device) if size > 1 else None
    except (RuntimeError, ValueError) as error:
        problem = problem or f"the {started} processes do not reach each other: {_first_line(error)}"
    seen = _seen_by_accelerate(device)
    if problem is None and not size == seen == started:
        problem = f"{_processes(started)} started, {size} answered, accelerate sees {seen}"
    return Launch(
        asked, started, size, seen, device.type, launch_variables(), tuple(members), measured, problem
    )


def _meet(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = datetime.timedelta(seconds=_SECONDS_TO_MEET)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)


def _count(device: torch.device) -> int:
    ones = torch.ones(1, device=device)
    dist.all_reduce(ones)
    return int(ones.item())


def _measure(device: torch.device) -> AllReduce:
    large = torch.zeros(_LARGE, device=device)
    size = dist.get_world_size()
    latency = _seconds(torch.zeros(1, device=device))
    bandwidth = large.nbytes * 2 * (size - 1) / size / _seconds(large)
    return AllReduce(dist.get_backend(), latency * 1e6, large.nbytes / 2**20, bandwidth / 1e9)


def _seconds(t: torch.Tensor) -> float:
    """Mean time of an all-reduce of ``t``; rank 0 decides how many repetitions fit the time."""
    _repeat(t, 2)
    number = torch.tensor([_SECONDS_A_TEST / max(_repeat(t, 3), 1e-6)], device=t.device)
    dist.broadcast(number, src=0)
    return _repeat(t, min(max(int(number.item()), 1), 2000))


def _repeat(t: torch.Tensor, times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        dist.all_reduce(t)
    if t.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / times


def _seen_by_accelerate(device: torch.device) -> int:
    from accelerate import PartialState

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS")
        return int(PartialState(cpu=device.type == "cpu").num_processes)


def _host() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _processes(count: int) -> str:
    return f"{count} process" if count == 1 else f"{count} processes"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
