"""What a study's small run writes: the run directory of the trainer, without its care for lost machines."""

import os
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from scaled_sgd.config import as_dict
from scaled_sgd.runs.directory import RunDirectory
from scaled_sgd.runs.summary import run_facts, software_facts
from scaled_sgd.train.session import Session


@lru_cache(maxsize=1)
def _software(_folder: str) -> dict[str, Any]:
    """Once a process and working folder, whose revision it is."""
    return software_facts()


class Record:
    """A fresh run directory; a context that leaves it to others.

    Args:
        session: what trains.
        folder: what an earlier attempt left in it is written over.
        together: how many runs train as one computation, whose ``seconds`` they share.

    Raises:
        UserError: another process writes in it, or it cannot be written.
    """

    def __init__(self, session: Session, folder: Path, *, together: int = 1) -> None:
        self._session, self._together = session, together
        folder.mkdir(parents=True, exist_ok=True)
        # A run whose summary is lost is made again, so metrics alone have to be on the disk, before it.
        self._directory = RunDirectory(folder, durable=False)
        (folder / "summary.json").unlink(missing_ok=True)
        self._directory.metrics.cut(0)
        there = replace(session.config.run, name=folder.name, dir=str(folder.parent))
        self._directory.write_config(as_dict(replace(session.config, run=there)))
        self._started = time.monotonic()

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.close()

    @property
    def seconds(self) -> float:
        """Of training so far, this run's share of them."""
        return (time.monotonic() - self._started) / self._together

    def row(self, row: dict[str, Any]) -> None:
        """Write it."""
        self._directory.metrics.write(row)

    def end(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Write the summary, which is returned."""
        session = self._session
        summary = outcome | {
            **run_facts(
                session.config,
                session.data,
                session.strategy.network.widths,
                processes=1,
                exchange=None,
                device=session.strategy.device.type,
                software=_software(os.getcwd()),
            ),
        }
        self._directory.metrics.flush()
        self._directory.write_summary(summary)
        return summary
