"""Start the trainer as users do: through accelerate launch, in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = REPOSITORY / "configs/accelerate/cpu.yaml"


def environment() -> dict[str, str]:
    """This process's variables, less those of a launcher, with one thread a process."""
    launcher = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    inherited = {name: value for name, value in os.environ.items() if name not in launcher}
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def launch(
    processes: int, *arguments: str, cwd: Path, options: tuple[str, ...] | None = None
) -> "subprocess.CompletedProcess[str]":
    """The finished process of ``scaled_sgd.train`` with so many ranks, its output as text."""
    if processes == 1 and options is None:
        command = [sys.executable, "-m", "scaled_sgd.train"]
    else:
        launcher = [sys.executable, "-m", "accelerate.commands.launch"]
        chosen = ("--config_file", str(CPU)) if options is None else options
        command = [*launcher, *chosen, "--num_processes", str(processes), "-m", "scaled_sgd.train"]
    return subprocess.run(
        [*command, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=180
    )
