"""Small runs in processes of their own that can be killed, and what they leave."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scaled_sgd.runs.checkpoint import newest_intact
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.train.main import main
from tests.copies import context, ready
from tests.launching import PATIENCE
from tests.runs.checkpoint.faults import Faults

RUN = (
    "--scaling.rule=norm",
    "--model.depth=3", "--model.base_width=4", "--model.dtype=float64", "--optim.lr=1", "--optim.steps=24",
    "--optim.batch_size=301", "--optim.momentum=0.5", "--run.name=run", "--run.resume=auto",
    "--run.log_every=1", "--run.eval_every=7", "--checkpoint.every_steps=5",
    "--diagnostics.every=6", "--diagnostics.samples=20",
)  # fmt: skip
"""Five epochs of five minibatches, ragged last ones, saved in the middle of them."""


def train(folder: Path, extra: tuple[str, ...] = (), prepare: Callable[[], Any] | None = None) -> None:
    """A whole run below ``folder`` in this process, which ends with its status."""
    torch.set_num_threads(1)
    os.chdir(folder)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(os.open("errors.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    faults = prepare() if prepare else None
    if isinstance(faults, Faults):
        with faults:
            status = main([*RUN, *extra])
        Path("count.txt").write_text(str(faults.count))
    else:
        status = main([*RUN, *extra])
    os._exit(status)


def start(folder: Path, extra: tuple[str, ...] = (), prepare: Callable[[], Any] | None = None) -> Any:
    ready()
    process = context.Process(target=train, args=(folder, extra, prepare))
    process.start()
    return process


def finish(folder: Path, extra: tuple[str, ...] = ()) -> None:
    """Run, or go on, to the end."""
    process = start(folder, extra)
    process.join(timeout=PATIENCE)
    assert process.exitcode == 0, (folder / "errors.txt").read_text()


def kill_after(seconds: float) -> None:
    """Have this process killed in so many seconds."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics, times aside."""
    kept = list(read_metrics(folder / "runs/run/metrics.jsonl"))
    for row in kept:
        row.pop("seconds")
    return kept


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Everything in the last checkpoint."""
    checkpoint, skipped = newest_intact(folder / "runs/run/checkpoints")
    assert checkpoint is not None
    assert skipped == []
    return {
        name: checkpoint.read(name, 0, torch.Size(checkpoint.shape(name)).numel())
        for name in checkpoint.names
    }


def assert_same(folder: Path, other: Path) -> None:
    """Two runs logged the same, number for number, and ended with the same weights and momentum."""
    assert rows(folder) == rows(other)
    a, b = weights(folder), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
