"""Thousands of steps with everything on: memory stays flat."""

import ctypes
import gc
import os
import resource
import statistics
from pathlib import Path

import pytest

from scaled_sgd.config.parsing import parse
from scaled_sgd.train import trainer
from scaled_sgd.train.accelerator import create_accelerator
from scaled_sgd.train.recording import RunRecord
from tests.copies import context, ready

pytestmark = [pytest.mark.slow, pytest.mark.full]

STEPS = 6000
ARGUMENTS = (
    "--scaling.rule=norm",
    "--model.depth=4", "--model.base_width=8", "--optim.lr=1", f"--optim.steps={STEPS}",
    "--optim.batch_size=64", "--optim.schedule=constant", "--optim.momentum=0.5",
    "--run.name=soak", "--run.log_every=10",
    "--run.eval_every=100", "--checkpoint.every_steps=50", "--diagnostics.every=100",
    "--diagnostics.samples=32",
)  # fmt: skip


class Watched(RunRecord):
    """Notes this process's memory and open files now and then."""

    def row(self, row):
        super().row(row)
        if row["step"] % (STEPS // 24):
            return
        # What the allocator keeps of memory that is free varies by megabytes.
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        with open("memory.txt", "a") as file:
            file.write(f"{row['step']} {pages * resource.getpagesize()} {len(os.listdir('/proc/self/fd'))}\n")


def soak(folder):
    os.chdir(folder)
    config = parse(ARGUMENTS)
    trainer.RunRecord = Watched
    trainer.Trainer(config, create_accelerator(config)).run()


def test_memory_and_open_files_stay_flat_over_thousands_of_steps(tmp_path):
    ready()
    process = context.Process(target=soak, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    table = [[int(n) for n in line.split()] for line in (tmp_path / "memory.txt").read_text().splitlines()]
    warm = [row for row in table if STEPS // 6 <= row[0] < STEPS // 3]
    late = [row for row in table if row[0] >= STEPS * 5 // 6]
    growth = statistics.median(row[1] for row in late) - statistics.median(row[1] for row in warm)
    print(f"{STEPS} steps: {warm[-1][1] / 2**20:.1f} MiB, growth {growth / 2**20:.2f} MiB")
    assert growth < 2**20
    assert max(row[2] for row in late) == max(row[2] for row in warm)
    assert len(list((tmp_path / "runs/soak/checkpoints").iterdir())) == 2
