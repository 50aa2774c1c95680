"""Facts about this machine: software, processors, memory and disk space for runs."""

import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from scaled_sgd.parallel.machine import cores, host_memory

PACKAGES = ("scaled-sgd", "torch", "accelerate", "datasets", "evaluate", "deepspeed", "transformers")
_GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    name: str
    memory_gib: float
    bf16: bool


@dataclass(frozen=True)
class Machine:
    """One machine, as this process may use it."""

    python: str
    system: str
    packages: dict[str, str | None]
    cores: int
    cores_of_machine: int
    memory_gib: float
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class Disk:
    """The folder of all runs; ``problem`` says why it is not writable."""

    folder: str
    free_gib: float
    problem: str | None


def machine() -> Machine:
    """Facts about this machine."""
    return Machine(
        python=platform.python_version(),
        system=platform.platform(terse=True),
        packages={package: _version(package) for package in PACKAGES},
        cores=cores(),
        cores_of_machine=os.cpu_count() or 1,
        memory_gib=round(host_memory() / _GIB, 1),
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())),
    )


def disk(folder: str) -> Disk:
    """Whether runs can be written to ``folder``, which need not exist yet, and the free space."""
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    problem = None
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"0")
    except OSError as error:
        problem = f"cannot write to {str(existing)!r}: {error.strerror}"
    return Disk(folder, round(shutil.disk_usage(existing).free / _GIB, 1), problem)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpu(index: int) -> Gpu:
    found = torch.cuda.get_device_properties(index)
    return Gpu(found.name, round(found.total_memory / _GIB, 1), found.major >= 8)
