"""Records of a trainer's run: run directory, trackers, terminal."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator

from scaled_sgd.core.errors import DivergedError, LostError
from scaled_sgd.core.text import escaped
from scaled_sgd.runs import rows
from scaled_sgd.runs.directory import RunDirectory
from scaled_sgd.runs.publishing import write_model
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.runs.summary import run_facts
from scaled_sgd.train.progress import Progress, brief
from scaled_sgd.train.session import Session
from scaled_sgd.train.strategies.shards import whole_weights


class RunRecord:
    """The record of a run on any number of processes.

    Args:
        session: the session that trains.
        directory: the run directory; None on ranks that do not write.
        accelerator: the world, with its trackers.
        release: frees what keeps this process from leaving the world.
    """

    def __init__(
        self,
        session: Session,
        directory: RunDirectory | None,
        accelerator: Accelerator,
        release: Callable[[], object],
    ) -> None:
        self._session, self._directory, self._accelerator = session, directory, accelerator
        self._release = release
        self._progress: Progress | None = None
        self._started = time.monotonic()
        self._rests = False

    def begin(self, progress: Progress, *, before: float) -> None:
        """Start the clock at ``before`` seconds, those before a resume; show ``progress``."""
        self._progress, self._started = progress, time.monotonic() - before

    @property
    def seconds(self) -> float:
        """Seconds of training so far, including those before a resume."""
        return time.monotonic() - self._started

    @property
    def metrics_bytes(self) -> int:
        """Length of the metrics file; flushed to the disk on return."""
        return 0 if self._directory is None else self._directory.metrics.size

    def row(self, row: dict[str, Any]) -> None:
        """Write, track and show a row."""
        if self._directory is not None:
            self._directory.metrics.write(row)
        if self._session.config.run.trackers:
            # Trackers group by what stands before a slash.
            known = {
                name.replace(".", "/"): value for name, value in rows.numbers(row) if not math.isnan(value)
            }
            self._accelerator.log(known, step=row["step"])
        if self._progress is not None:
            self._warn_of_rest(row.get("scales"))
            shown = {"loss": row.get("loss"), "lr": row.get("lr"), "edge": row.get("edge_ratio")}
            self._progress.show(row["step"], shown | brief(self._session.evaluation))

    def _warn_of_rest(self, scales: list[float] | None) -> None:
        """Say once that layers do not move."""
        # By autograd the hook warns.
        fused = self._session.config.optim.update == "fused"
        if fused and scales and min(scales) == 0 and not self._rests:
            self._rests = True
            layers = ", ".join(str(k) for k, xi in enumerate(scales, start=1) if xi == 0)
            self.say(
                f"warning: layers {layers} get no gradient, so that they do not move: their signals are 0; a "
                "smaller optim.lr, data.standardize or another activation may help"
            )

    def end(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Write the summary, release the directory and leave the world. Collective.

        Raises:
            DivergedError: the run diverged.
            LostError: the summary or rows cannot be written.
        """
        session, summary = self._session, outcome
        unwritten: OSError | None = None
        strategy = session.strategy
        layers = None if outcome["status"] == "diverged" else whole_weights(strategy.shards)
        if self._directory is not None:
            summary = outcome | run_facts(
                session.config,
                session.data,
                strategy.network.widths,
                processes=self._accelerator.num_processes,
                exchange=strategy.exchange,
                device=self._accelerator.device.type,
            )
            try:
                self._directory.metrics.flush()
                if layers is not None:
                    write_model(
                        self._directory.model,
                        strategy.network,
                        layers,
                        session.config,
                        session.data,
                        summary,
                        read_metrics(self._directory.path / "metrics.jsonl"),
                    )
                self._directory.write_summary(summary)
            except OSError as error:
                unwritten = error
            self._directory.close()
        # The other processes, and this one where it could not write, take part in gathering all layers.
        for _ in layers or ():
            pass
        self._release()
        self._accelerator.end_training()
        if outcome["status"] == "diverged":
            step, layer = outcome["step"], outcome["layer"]
            place = "the loss itself" if layer is None else f"layer {layer} of {strategy.network.depth}"
            raise DivergedError(
                f"loss: not finite at step {step} (lr {session.schedule(step):.4g}); first in {place}; "
                "a smaller optim.lr or optim.clip_norm may hold it"
            )
        if unwritten is not None:
            raise LostError(
                f"run.dir: the end of the run cannot be written: {unwritten.strerror}; allowed: a disk with "
                "room"
            )
        return summary

    def say(self, line: str) -> None:
        """Print a line, once."""
        if self._accelerator.is_main_process:
            print(escaped(line), file=sys.stderr, flush=True)
