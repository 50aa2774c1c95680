"""Programs started as users do, in processes of their own, and waiting for what they do."""

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = REPOSITORY / "configs/accelerate/cpu.yaml"

PATIENCE = 300.0
"""Seconds after which what a test waits for counts as never coming, however busy the machine is."""


def environment() -> dict[str, str]:
    """This process's variables, less those of a launcher, with one thread a process."""
    launcher = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    inherited = {name: value for name, value in os.environ.items() if name not in launcher}
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def finished(*command: str, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command that has run to its end, its output as text."""
    return subprocess.run(
        command, cwd=cwd, env=environment() | variables, capture_output=True, text=True, timeout=PATIENCE
    )


def wait_until(reached: Callable[[], bool], *, what: str, seconds: float = PATIENCE) -> None:
    """Return once ``reached()``, looked at ten times a second; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()
