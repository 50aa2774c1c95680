"""Start the trainer as users do: through accelerate launch, in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = REPOSITORY / "configs/accelerate/cpu.yaml"


def launch(processes: int, *arguments: str, cwd: Path, options: tuple[str, ...] | None = None):
    """The finished process of ``scaled_sgd.train`` with so many ranks, its output as text."""
    if processes == 1 and options is None:
        command = [sys.executable, "-m", "scaled_sgd.train"]
    else:
        launcher = [sys.executable, "-m", "accelerate.commands.launch"]
        chosen = ("--config_file", str(CPU)) if options is None else options
        command = [*launcher, *chosen, "--num_processes", str(processes), "-m", "scaled_sgd.train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=180
    )
