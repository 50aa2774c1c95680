"""The training loop, on Accelerate."""

import math
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from scaled_sgd.config import Config, as_dict, flat
from scaled_sgd.core.errors import DivergedError, StoppedError
from scaled_sgd.core.losses import get_loss
from scaled_sgd.core.schedules import Schedule
from scaled_sgd.data import Batch, Resident, load_data, rank_rows
from scaled_sgd.data.metrics import load_metrics
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.parallel import Ranks
from scaled_sgd.parallel.agreement import from_first_rank, on_every_rank, on_first_rank
from scaled_sgd.parallel.exchange import described
from scaled_sgd.runs.checkpoint import Checkpoint
from scaled_sgd.runs.directory import RunDirectory
from scaled_sgd.runs.records import tracked
from scaled_sgd.runs.summary import run_facts
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.steps.signals import Minibatch
from scaled_sgd.train.evaluation import gather_outputs, mean_loss
from scaled_sgd.train.handshake import agree_on_places, agree_on_run
from scaled_sgd.train.interrupts import Exchange, Interrupts, Wish
from scaled_sgd.train.progress import Progress, brief
from scaled_sgd.train.resolution import resolve
from scaled_sgd.train.resuming import check_start, find_start, open_directory
from scaled_sgd.train.samples import Samples
from scaled_sgd.train.saver import Saver
from scaled_sgd.train.snapshot import Progressed
from scaled_sgd.train.steps import make_step, step_taken
from scaled_sgd.train.strategies.build import build_strategy
from scaled_sgd.train.strategies.launched import world_of
from scaled_sgd.train.strategies.shards import momentum_rows


class Trainer:
    """One run: data, network, optimizer, records.

    Every rank holds the training data and takes its rows of each global minibatch; losses are summed
    and divided by the global number of samples, so that a step is the same for any number of processes
    and any accumulation.

    Args:
        config: a checked configuration.
        accelerator: the world to run in (see :func:`scaled_sgd.train.accelerator.create_accelerator`).

    Raises:
        UserError: the data, the metrics, the trackers or the run directory do not fit.
    """

    def __init__(self, config: Config, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.rank = accelerator.process_index
        self.data = on_every_rank(lambda: load_data(config.data, seed=config.run.seed, quiet=self.rank > 0))
        self.config = config = resolve(config, self.data, world_of(accelerator))
        agree_on_run(config, self.data, accelerator.device, accelerator.num_processes)
        self.loss = get_loss(config.loss)
        self.samples = Samples(self.data, config, accelerator.device)
        start = find_start(config)
        changes = [] if start.checkpoint is None else check_start(start.checkpoint, config, self.data)
        self.strategy = build_strategy(config, accelerator, self.data.in_features, self.data.out_features)
        agree_on_places(self.strategy, config)
        self._watch = DivergenceWatch(self.strategy.network.depth, accelerator.device)
        if not config.optim.fused_update:
            self._watch.attach(self.strategy.network)
        self._step = make_step(self.strategy, config.optim, self.loss, self._watch)
        self.observer = (
            Observer(
                config.diagnostics, self.strategy.module, *self.samples.probe(Ranks()), loss=self.loss.name
            )
            if config.diagnostics.every
            else None
        )
        optim = config.optim
        assert optim.steps is not None
        assert config.run.eval_every is not None
        self.steps, self._evaluation_interval = optim.steps, config.run.eval_every
        self.schedule = Schedule(optim.schedule, optim.lr, self.steps, optim.warmup_steps)
        self._metrics = on_first_rank(lambda: load_metrics(config.run.metrics or [], self.data.task))
        self.directory = on_first_rank(lambda: open_directory(config, start))
        self._folder = from_first_rank(lambda: cast(RunDirectory, self.directory).path)
        if config.run.trackers:
            accelerator.project_configuration.logging_dir = str(self._folder)
            accelerator.init_trackers("scaled_sgd", config=tracked(as_dict(config)))
        self._say(f"data: {self.data.describe()}")
        self._saver = Saver(config, self.data, self.strategy, self.observer, accelerator.scaler)
        self.progressed = Progressed()
        if start.checkpoint is not None:
            self._resume(start.checkpoint, changes)
        if self.strategy.exchange is not None:
            self._say(f"exchange: {described(self.strategy.exchange)}")

    def run(self) -> dict[str, Any]:
        """Train to the end; returns the summary.

        Raises:
            DivergedError: the loss stopped being finite; everything logged before is on the disk.
            StoppedError: a signal came; the run is saved after the step it came in.
        """
        at = self.progressed
        self._started = time.monotonic() - at.seconds
        evaluation: dict[str, float] = {}
        exchange = Exchange()
        with (
            Interrupts() as interrupts,
            Progress(self.steps, start=at.step, enabled=self.accelerator.is_main_process) as progress,
        ):
            for epoch, batch in self.samples.minibatches(at, self.steps, self.strategy.data):
                step = at.step
                row: dict[str, Any] = {}
                if step and step % self._evaluation_interval == 0:
                    row |= (evaluation := self.evaluate())
                lr = self.schedule(step)
                observed = self.observer is not None and self.observer.due(step)
                logged = step % self.config.run.log_every == 0 or bool(row) or observed
                if observed:
                    row |= self._observe(batch, lr)
                loss, grad_norm = self._update(step, batch, lr, measure_gradient=logged)
                if observed:
                    total = self._loss_of(batch.x, self.samples.targets(batch.y))
                    row["loss_after"] = float(self.strategy.data.sum(total)) / batch.n_global
                if logged:
                    at.last_loss = float(self.strategy.data.sum(loss)) / batch.n_global
                    at.first_loss = at.last_loss if step == 0 else at.first_loss
                    row = {
                        "step": step,
                        "epoch": round(epoch, 6),
                        "samples": at.samples,
                        "lr": lr,
                        "loss": at.last_loss,
                        "grad_norm": None if grad_norm is None else float(grad_norm),
                        "scales": self.strategy.scaling.scales.tolist(),
                        "seconds": self._seconds(),
                    } | row
                    self._record(row)
                    shown = {"loss": at.last_loss, "lr": lr, "edge": row.get("edge_ratio")}
                    progress.show(step, shown | brief(evaluation))
                    if not math.isfinite(at.last_loss):
                        self._stop_if_diverged()
                at.step, at.minibatch, at.samples = step + 1, at.minibatch + 1, at.samples + batch.n_global
                progress.advance(at.step)
                wish = exchange(max(interrupts.wish, self._saver.wish()))
                if wish > Wish.SAVE:
                    exchange.finish()
                    self._stop(wish)
                if wish == Wish.SAVE or self.config.checkpoint.due(at.step, self.steps):
                    self._save()
            exchange.finish()
            seconds = self._seconds()
            self._look_once_more()
            self._stop_if_diverged()
            evaluation = self.evaluate()
            self._record({"step": self.steps, "seconds": seconds, **evaluation})
            progress.show(self.steps, brief(evaluation))
            return self._finish(seconds, evaluation)

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics over the held-out samples; the metrics on the main process only. Collective."""
        loss, outputs = self._mean_loss(self.samples.held_out)
        outputs = gather_outputs(outputs, len(self.samples.held_out), self.strategy.data)
        metrics = self._metrics
        figures = on_first_rank(lambda: metrics.compute(outputs, self.samples.held_out.y) if metrics else {})
        return {"eval_loss": loss} | (figures or {})

    def _mean_loss(self, samples: Resident) -> tuple[float, Tensor]:
        strategy = self.strategy
        return mean_loss(strategy.forward, samples, self.samples.targets, loss=self.loss, ranks=strategy.data)

    def _observe(self, batch: Batch, lr: float) -> dict[str, Any]:
        """What the diagnostics say of the network before its step on ``batch``. Collective."""
        assert self.observer is not None
        own = rank_rows(len(batch.x), self.strategy.tensor.rank, self.strategy.tensor.size)
        x, y = batch.x[own], self.samples.targets(batch.y[own])
        chunk = self.config.diagnostics.chunk
        minibatch = Minibatch(self.strategy.module, x, y, loss=self.loss.name, chunk_size=chunk)
        strategy = self.strategy
        velocity = momentum_rows(strategy.shards, minibatch.partition)
        taken = step_taken(minibatch, lr, self.config.optim, strategy.scaling, velocity)
        return self.observer.measure(minibatch, taken)

    def _update(
        self, step: int, batch: Batch, lr: float, *, measure_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """One step; the sum of this rank's losses and, where known, the norm of the whole gradient."""
        self._watch.start_step(step)
        y = self.samples.targets(batch.y)
        taken = self._step(batch.x, y, batch.n_global, lr, measure=measure_gradient)
        self._watch.see(taken.loss, self.strategy.network.depth + 1)
        return taken.loss, taken.grad_norm

    def _save(self) -> Path | None:
        """Save the run as it is; None, with a warning, where it cannot be written. Collective."""
        self._look_once_more()
        self._stop_if_diverged()
        self.progressed.seconds = self._seconds()
        metrics = None if self.directory is None else self.directory.metrics
        path, warning = self._saver.save(self._folder, self.progressed, metrics)
        if warning is not None:
            self._say(f"warning: {warning}; the run goes on")
        return path

    def _stop(self, wish: Wish) -> None:
        """Save, and end the run as its signal asks. Collective."""
        assert wish.signal is not None
        path = self._save()
        saved = (
            f"saved in {path}; --run.name {self._folder.name} --run.resume auto goes on"
            if path
            else "not saved"
        )
        if self.directory is not None:
            self._summarise({"status": "interrupted", "step": self.progressed.step})
        self.accelerator.end_training()
        raise StoppedError(f"{wish.signal.name} after step {self.progressed.step}, {saved}", wish.signal)

    def _resume(self, checkpoint: Checkpoint, changes: list[str]) -> None:
        self.progressed = self._saver.restore(checkpoint)
        at = self.progressed
        self._say(
            f"resumed: {checkpoint.path} at step {at.step} of {self.steps}"
            + (f"; changed: {', '.join(changes)}" if changes else "")
        )

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _say(self, line: str) -> None:
        if self.accelerator.is_main_process:
            print(line, file=sys.stderr, flush=True)

    @torch.no_grad()
    def _loss_of(self, x: Tensor, targets: Tensor) -> Tensor:
        """Sum of this rank's losses () as the network is now. Collective where weights are in parts."""
        return self.loss.value(self.strategy.forward(x), targets).sum(dtype=torch.float64)

    def _finish(self, seconds: float, evaluation: dict[str, float]) -> dict[str, Any]:
        train_loss = self.progressed.last_loss
        if isinstance(self.samples.train, Resident):
            train_loss, _ = self._mean_loss(self.samples.train)
        summary = {
            "status": "finished",
            "steps": self.steps,
            "initial_loss": self.progressed.first_loss,
            "train_loss": train_loss,
            **evaluation,
            "seconds": seconds,
        }
        if self.directory is not None:
            summary = self._summarise(summary)
        self.accelerator.end_training()
        return summary

    def _summarise(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Write the summary of a run that has ended, and leave its directory to others."""
        assert self.directory is not None
        summary = outcome | run_facts(
            self.config,
            self.data,
            self.strategy.network.widths,
            processes=self.accelerator.num_processes,
            exchange=self.strategy.exchange,
            device=self.accelerator.device.type,
        )
        try:
            self.directory.write_summary(summary)
        except OSError as error:
            self._say(f"warning: summary: cannot be written: {error.strerror}")
        self.directory.close()
        return summary

    def _look_once_more(self) -> None:
        """See whether the last update left a finite loss, which no step has told yet. Collective."""
        total = self._loss_of(*self.samples.probe(self.strategy.data))
        self._watch.see(total, self.strategy.network.depth + 1)

    def _record(self, row: dict[str, Any]) -> None:
        if self.directory is not None:
            self.directory.metrics.write(row)
        if self.config.run.trackers:
            numbers = {k: v for k, v in flat(row).items() if isinstance(v, int | float)}
            self.accelerator.log(numbers, step=row["step"])

    def _stop_if_diverged(self) -> None:
        """Raise DivergedError on every rank if any number was not finite. Collective."""
        found = self._watch.found()
        if found is None:
            return
        step, k = found
        if self.directory is not None:
            layer = k if k <= self.strategy.network.depth else None
            self._summarise({"status": "diverged", "step": step, "layer": layer})
        self.accelerator.end_training()
        raise DivergedError(
            f"loss: not finite at step {step} (lr {self.schedule(step):.4g}); first in "
            f"{self._watch.describe(k)}; a smaller optim.lr or optim.clip_norm may hold it"
        )
