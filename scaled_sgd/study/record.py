"""What a study's small run writes: the run directory of the trainer, with a few figures more."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from scaled_sgd.config import as_dict
from scaled_sgd.runs.directory import RunDirectory
from scaled_sgd.runs.summary import network_facts, software_facts
from scaled_sgd.study.run import Cut, Run


@lru_cache(maxsize=1)
def _software(_folder: str) -> dict[str, Any]:
    """Once a process and working folder, whose revision it is."""
    return software_facts()


class Record:
    """The folder of a run, begun anew; a context that leaves it to others.

    Args:
        run: whose.
        folder: what an earlier attempt left in it is written over.
        together: how many runs train as one computation, whose ``seconds`` they share.

    Raises:
        UserError: another process writes in it, or it cannot be written.
    """

    def __init__(self, run: Run, folder: Path, *, together: int = 1) -> None:
        self._run, self._together = run, together
        self._first_loss: float | None = None
        folder.mkdir(parents=True, exist_ok=True)
        # A run whose summary is lost is made again, so metrics alone have to be on the disk, before it.
        self._directory = RunDirectory(folder, durable=False)
        (folder / "summary.json").unlink(missing_ok=True)
        self._directory.metrics.cut(0)
        there = replace(run.config.run, name=folder.name, dir=str(folder.parent))
        self._directory.write_config(as_dict(replace(run.config, run=there)))
        self._started = time.monotonic()

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.close()

    def begin(self, cut: Cut) -> dict[str, Any] | None:
        """What is measured before a step that has a row; None for one that has none."""
        run = self._run
        if cut.step not in run.logged:
            return None
        row: dict[str, Any] = {}
        if run.evaluates(cut.step):
            row |= run.evaluate()
        if run.observes(cut.step):
            row |= run.observe(cut)
        return row

    def end(
        self,
        row: dict[str, Any],
        cut: Cut,
        *,
        loss: float,
        grad_norm: float,
        scales: Sequence[float],
    ) -> None:
        """Write the row of a step that was taken."""
        if self._run.observes(cut.step):
            row["loss_after"] = float(self._run.loss_on(cut.x, cut.y)) / len(cut.x)
        self._first_loss = loss if cut.step == 0 else self._first_loss
        head = {
            "step": cut.step,
            "epoch": round(cut.epoch, 6),
            "samples": cut.samples,
            "lr": self._run.schedule(cut.step),
            "loss": loss,
            "grad_norm": grad_norm,
            "scales": scales,
            "seconds": self._seconds(),
        }
        self._directory.metrics.write(head | row)

    def finished(self, largest: float) -> dict[str, Any]:
        """Evaluate the trained network and write the summary, which is returned."""
        run, seconds = self._run, self._seconds()
        evaluation = run.evaluate()
        self._directory.metrics.write({"step": run.steps, "seconds": seconds, **evaluation})
        return self._summarise(
            {
                "status": "finished",
                "steps": run.steps,
                "initial_loss": self._first_loss,
                "max_loss": largest,
                "train_loss": run.train_loss(),
                **evaluation,
                "seconds": seconds,
            }
        )

    def diverged(self, step: int, k: int) -> dict[str, Any]:
        """Write the summary of a run whose layer ``k``, or loss for k = l + 1, stopped being finite."""
        return self._summarise(
            {
                "status": "diverged",
                "step": step,
                "layer": k if k <= self._run.model.depth else None,
                "steps": step,
                "initial_loss": self._first_loss,
                "max_loss": None,
                "train_loss": None,
                "seconds": self._seconds(),
            }
        )

    def _summarise(self, outcome: dict[str, Any]) -> dict[str, Any]:
        run = self._run
        facts = {
            **network_facts(run.config, run.data, run.model.widths),
            "world_size": 1,
            "strategy": run.config.sharding.strategy,
            "exchange": None,
            "device": run.device.type,
            **_software(os.getcwd()),
        }
        self._directory.metrics.flush()
        self._directory.write_summary(outcome | facts)
        return outcome | facts

    def _seconds(self) -> float:
        return (time.monotonic() - self._started) / self._together
