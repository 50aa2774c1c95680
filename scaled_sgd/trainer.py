"""The training loop, on Accelerate."""

import math
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from scaled_sgd.agreement import on_every_rank, on_first_rank
from scaled_sgd.config import Config, as_dict
from scaled_sgd.data import Batch, Resident, load_data, rank_rows
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.scales import mean_squares
from scaled_sgd.divergence import DivergenceWatch
from scaled_sgd.errors import DivergedError, UserError
from scaled_sgd.evaluation import gather_outputs, mean_loss
from scaled_sgd.losses import get_loss
from scaled_sgd.metrics import load_metrics
from scaled_sgd.observation import Observer
from scaled_sgd.progress import Progress, brief
from scaled_sgd.records import RunDirectory, flat, tracked
from scaled_sgd.resolution import resolve
from scaled_sgd.schedule import Schedule
from scaled_sgd.strategies.build import build_strategy
from scaled_sgd.strategies.choice import World
from scaled_sgd.summary import run_facts


class Trainer:
    """One run: data, network, optimizer, records.

    Every rank holds the training data and takes its rows of each global minibatch; losses are summed
    and divided by the global number of samples, so that a step is the same for any number of processes
    and any accumulation.

    Args:
        config: a checked configuration.
        accelerator: the world to run in (see :func:`scaled_sgd.train.create_accelerator`).

    Raises:
        UserError: the data, the metrics, the trackers or the run directory do not fit.
    """

    def __init__(self, config: Config, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.rank = accelerator.process_index
        self.data = on_every_rank(lambda: load_data(config.data, seed=config.run.seed, quiet=self.rank > 0))
        self.config = config = resolve(config, self.data, World.of(accelerator))
        self.loss = get_loss(config.loss)
        dtype = getattr(torch, config.model.dtype)
        self._train = self.data.train.to(accelerator.device, dtype)
        self._held_out = self.data.evaluation.to(accelerator.device, dtype)
        self.strategy = build_strategy(config, accelerator, self.data.in_features, self.data.out_features)
        self._watch = DivergenceWatch(self.strategy.network)
        self.observer = (
            Observer(config.diagnostics, self.strategy.module, *self.probe, loss=self.loss.name)
            if config.diagnostics.every
            else None
        )
        optim = config.optim
        assert optim.steps is not None
        assert config.run.eval_every is not None
        self.steps, self._evaluation_interval = optim.steps, config.run.eval_every
        self.schedule = Schedule(optim.schedule, optim.lr, self.steps, optim.warmup_steps)
        self._metrics = on_first_rank(lambda: load_metrics(config.run.metrics or [], self.data.task))
        self.directory = self._open_directory()
        if accelerator.is_main_process:
            print(f"data: {self.data.describe()}", file=sys.stderr, flush=True)

    def run(self) -> dict[str, Any]:
        """Train to the end; returns the summary.

        Raises:
            DivergedError: the loss stopped being finite; everything logged before is on the disk.
        """
        started = time.monotonic()
        first_loss, last_loss, samples = math.nan, math.nan, 0
        evaluation: dict[str, float] = {}
        with Progress(self.steps, enabled=self.accelerator.is_main_process) as progress:
            for step, epoch, batch in self._minibatches():
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
                    row["loss_after"] = self._minibatch_loss(batch)
                if logged:
                    last_loss = float(self.strategy.data.sum(loss)) / batch.n_global
                    first_loss = last_loss if step == 0 else first_loss
                    row = {
                        "step": step,
                        "epoch": round(epoch, 6),
                        "samples": samples,
                        "lr": lr,
                        "loss": last_loss,
                        "grad_norm": None if grad_norm is None else float(grad_norm),
                        "scales": self.strategy.scaling.scales.tolist(),
                        "seconds": time.monotonic() - started,
                    } | row
                    self._record(row)
                    shown = {"loss": last_loss, "lr": lr, "edge": row.get("edge_ratio")}
                    progress.show(step, shown | brief(evaluation))
                    if not math.isfinite(last_loss):
                        self._stop_if_diverged()
                samples += batch.n_global
                progress.advance(step + 1)
            seconds = time.monotonic() - started
            self._stop_if_diverged()
            evaluation = self.evaluate()
            self._record({"step": self.steps, "seconds": seconds, **evaluation})
            progress.show(self.steps, brief(evaluation))
        return self._finish(seconds, first_loss, last_loss, evaluation)

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics over the held-out samples; the metrics on the main process only. Collective."""
        loss, outputs = mean_loss(
            self.strategy.forward, self._held_out, self._targets, loss=self.loss, ranks=self.strategy.data
        )
        outputs = gather_outputs(outputs, len(self._held_out), self.strategy.data)
        metrics = self._metrics
        figures = on_first_rank(lambda: metrics.compute(outputs, self._held_out.y) if metrics else {})
        return {"eval_loss": loss} | (figures or {})

    def _observe(self, batch: Batch, lr: float) -> dict[str, Any]:
        """What the diagnostics say of the network before its step on ``batch``. Collective."""
        assert self.observer is not None
        own = rank_rows(len(batch.x), self.strategy.tensor.rank, self.strategy.tensor.size)
        x, y = batch.x[own], self._targets(batch.y[own])
        chunk = self.config.diagnostics.chunk
        minibatch = Minibatch(self.strategy.module, x, y, loss=self.loss.name, chunk_size=chunk)
        scales = self.strategy.scaling.predict(*mean_squares(minibatch))
        return self.observer.measure_step(minibatch, scales=scales, lr=lr) | self.observer.measure_probe(
            scales=scales, lr=lr
        )

    def _update(
        self, step: int, batch: Batch, lr: float, *, measure_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """One step; the sum of this rank's losses and, if asked for, the norm of the whole gradient."""
        strategy, accumulation = self.strategy, self.config.optim.accumulation
        strategy.zero_grad()
        self._watch.start_step(step)
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        parts = zip(batch.x.tensor_split(accumulation), batch.y.tensor_split(accumulation), strict=True)
        for part, (x, y) in enumerate(parts, start=1):
            last = part == accumulation
            with strategy.microbatch(last=last):
                losses = self.loss.value(strategy.forward(x), self._targets(y)).sum()
                strategy.backward(losses * (strategy.data.size / batch.n_global), last=last)
            total += losses.detach()
        self._watch.see(total, strategy.network.depth + 1)
        clip_norm = self.config.optim.clip_norm
        grad_norm = strategy.gradient_norm() if measure_gradient or clip_norm is not None else None
        if clip_norm is not None and grad_norm is not None:
            strategy.clip(grad_norm, clip_norm)
        strategy.step(lr)
        return total, grad_norm

    def _minibatches(self) -> Iterator[tuple[int, float, Batch]]:
        """Step, epoch as a fraction, and this rank's part of the global minibatch."""
        step = epoch = 0
        per_epoch = self._train.steps_per_epoch(self.config.optim.batch_size)
        while step < self.steps:
            first = step
            for batch in self._train.batches(
                batch_size=self.config.optim.batch_size,
                seed=self.config.run.seed,
                epoch=epoch,
                rank=self.strategy.data.rank,
                world_size=self.strategy.data.size,
            ):
                if step == self.steps:
                    return
                yield step, epoch + ((step - first) / per_epoch if per_epoch else 0.0), batch
                step += 1
            if step == first:
                source = self.config.data.source
                raise UserError(f"data.source: {source!r} gave no training samples; allowed: at least one")
            epoch += 1

    @torch.no_grad()
    def _minibatch_loss(self, batch: Batch) -> float:
        """Mean loss of the global minibatch as the network is now. Collective."""
        f = self.strategy.forward(batch.x)
        total = self.loss.value(f, self._targets(batch.y)).sum(dtype=torch.float64)
        return float(self.strategy.data.sum(total)) / batch.n_global

    def _targets(self, y: Tensor) -> Tensor:
        if self.loss.name == "mse" and self.data.task == "classification":
            return F.one_hot(y, self.data.out_features).to(self._held_out.x.dtype)
        return y

    @property
    def probe(self) -> tuple[Tensor, Tensor]:
        """This process's samples of the probe, and their targets: training samples that stay the same.

        Held-out ones where training streams.
        """
        samples = self._train if isinstance(self._train, Resident) else self._held_out
        chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(self.config.run.seed))
        probe = chosen[: self.config.diagnostics.samples]
        own = probe[rank_rows(len(probe), self.rank, self.accelerator.num_processes)].to(samples.x.device)
        return samples.x[own], self._targets(samples.y[own])

    def _finish(
        self, seconds: float, first_loss: float, last_loss: float, evaluation: dict[str, float]
    ) -> dict[str, Any]:
        train_loss = last_loss
        if isinstance(self._train, Resident):
            train_loss, _ = mean_loss(
                self.strategy.forward, self._train, self._targets, loss=self.loss, ranks=self.strategy.data
            )
        summary = {
            "status": "finished",
            "steps": self.steps,
            "initial_loss": first_loss,
            "train_loss": train_loss,
            **evaluation,
            "seconds": seconds,
            **self._facts(),
        }
        if self.directory is not None:
            self.directory.write_summary(summary)
            self.directory.metrics.close()
        self.accelerator.end_training()
        return summary

    def _facts(self) -> dict[str, Any]:
        return run_facts(self.config, self.data, self.strategy, self.accelerator.device)

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
            self.directory.write_summary(
                {"status": "diverged", "step": step, "layer": layer, **self._facts()}
            )
        self.accelerator.end_training()
        raise DivergedError(
            f"loss: not finite at step {step} (lr {self.schedule(step):.4g}); first in "
            f"{self._watch.describe(k)}; a smaller optim.lr or optim.clip_norm may hold it"
        )

    def _open_directory(self) -> RunDirectory | None:
        """Make the run directory and start the trackers; the directory is None on other ranks."""
        run = self.config.run

        def make() -> RunDirectory:
            if run.name is not None:
                directory = RunDirectory(run.dir, run.name)
            else:
                source = re.sub(r"[^A-Za-z0-9._-]", "-", Path(self.config.data.source).stem).strip(".-")
                stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
                directory = RunDirectory(run.dir, f"{source or 'run'}-{stamp}", numbered=True)
            named = replace(self.config, run=replace(run, name=directory.path.name))
            directory.write_config(as_dict(named))
            return directory

        directory = on_first_rank(make)
        if run.trackers:
            if directory is not None:
                self.accelerator.project_configuration.logging_dir = str(directory.path)
            self.accelerator.init_trackers("scaled_sgd", config=tracked(as_dict(self.config)))
        return directory
