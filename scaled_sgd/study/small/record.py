"""Records of a small run: the trainer's run directory, but not durable against power failures."""

import os
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from scaled_sgd.config import as_dict
from scaled_sgd.runs.directory import RunDirectory
from scaled_sgd.runs.own_files import make_folder
from scaled_sgd.runs.summary import run_facts, software_facts
from scaled_sgd.train.session import Session


@lru_cache(maxsize=1)
def _software(_folder: str) -> dict[str, Any]:
    """Facts about the software, computed once per process and working folder."""
    return software_facts()


class SmallRecord:
    """A fresh run directory, as a context that releases it on exit.

    Args:
        session: the session that trains.
        folder: the folder; results of an earlier attempt are overwritten.
        together: number of runs that train as one computation and share its ``seconds``.

    Raises:
        UserError: another process writes in it, or it cannot be written.
    """

    def __init__(self, session: Session, folder: Path, *, together: int = 1) -> None:
        self._session, self._together = session, together
        make_folder(folder)
        # A run without a summary is repeated, so only the metrics must be on the disk, before the summary.
        self._directory = RunDirectory(folder, durable=False)
        (folder / "summary.json").unlink(missing_ok=True)
        self._directory.metrics.cut(0)
        there = replace(session.config.run, name=folder.name, dir=str(folder.parent))
        self._directory.write_config(as_dict(replace(session.config, run=there)))
        self._started = time.monotonic()

    def __enter__(self) -> "SmallRecord":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.close()

    @property
    def seconds(self) -> float:
        """This run's share of the seconds of training so far."""
        return (time.monotonic() - self._started) / self._together

    def row(self, row: dict[str, Any]) -> None:
        """Write a row."""
        self._directory.metrics.write(row)

    def end(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Write and return the summary."""
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
