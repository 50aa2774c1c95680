"""The training loop, on Accelerate."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from scaled_sgd.config import Config, as_dict
from scaled_sgd.data import Batch, Data, Resident, load_data, rank_rows
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.scales import mean_squares
from scaled_sgd.errors import DivergedError, UserError
from scaled_sgd.losses import get_loss
from scaled_sgd.metrics import load_metrics
from scaled_sgd.model import HomogeneousMLP
from scaled_sgd.observation import Observer
from scaled_sgd.optim import ScaledSGD
from scaled_sgd.progress import Progress
from scaled_sgd.records import RunDirectory, git_revision, versions
from scaled_sgd.schedule import Schedule

_EVALUATION_ROWS = 4096
_DEFAULT_EPOCHS = 20.0
_T = TypeVar("_T")


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
        self.config = config
        self.accelerator = accelerator
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.data = load_data(config.data, seed=config.run.seed, rank=self.rank, world_size=self.world_size)
        self.loss = get_loss(_loss_name(config, self.data))
        dtype = getattr(torch, config.model.dtype)
        self._train = self.data.train.to(accelerator.device, dtype)
        self._held_out = self.data.evaluation.to(accelerator.device, dtype)
        self.steps = self._count_steps()
        self._evaluation_steps = self._evaluation_interval()

        model = HomogeneousMLP(
            self.data.in_features,
            self.data.out_features,
            depth=config.model.depth,
            base_width=config.model.base_width,
            width_exponent=config.model.width_exponent,
            activation=config.model.activation,
            parameterization=config.model.parameterization,
            seed=config.run.seed,
            device=accelerator.device,
            dtype=dtype,
        )
        optimizer = ScaledSGD(
            model,
            config.optim.lr,
            rule=config.scaling.rule,
            static=config.scaling.static,
            momentum=config.optim.momentum,
            weight_decay=config.optim.weight_decay,
            grad_scaler=accelerator.scaler,
        )
        self.scaling = optimizer.scaling
        self.model: torch.nn.Module = accelerator.prepare(model)
        self.optimizer: ScaledSGD = accelerator.prepare(optimizer)
        self.observer = self._observer()
        optim = config.optim
        self.schedule = Schedule(optim.schedule, optim.lr, self.steps, optim.warmup_steps)
        self._metrics = self._on_main(lambda: load_metrics(self._metric_names(), self.data.task))
        self.directory = self._open_directory()

    def run(self) -> dict[str, Any]:
        """Train to the end; returns the summary.

        Raises:
            DivergedError: the loss stopped being finite; everything logged before is on the disk.
        """
        started = time.monotonic()
        last_loss = math.nan
        evaluation: dict[str, float] = {}
        with Progress(self.steps, enabled=self.accelerator.is_main_process) as progress:
            for step, epoch, batch in self._minibatches():
                row: dict[str, Any] = {}
                if step and step % self._evaluation_steps == 0:
                    row |= (evaluation := self.evaluate())
                lr = self.schedule(step)
                observed = self.observer.due(step)
                logged = step % self.config.run.log_every == 0 or bool(row) or observed
                if observed:
                    row |= self._observe(batch, lr)
                loss, grad_norm = self._update(batch, lr, measure_gradient=logged)
                if observed:
                    row["loss_after"] = self._minibatch_loss(batch)
                if logged:
                    last_loss = float(self.accelerator.reduce(loss)) / batch.n_global
                    row = {
                        "step": step,
                        "epoch": epoch,
                        "samples": step * self.config.optim.batch_size,
                        "lr": lr,
                        "loss": last_loss,
                        "grad_norm": None if grad_norm is None else float(grad_norm),
                        "scales": self.scaling.scales.tolist(),
                        "seconds": time.monotonic() - started,
                    } | row
                    self._record(row)
                    shown = {"loss": last_loss, "lr": lr, "edge": row.get("edge_ratio"), **evaluation}
                    progress.show(step, shown)
                    if not math.isfinite(last_loss):
                        raise self._diverged(step, batch)
                progress.advance(step + 1)
            seconds = time.monotonic() - started
            evaluation = self.evaluate()
            self._record({"step": self.steps, "seconds": seconds, **evaluation})
            progress.show(self.steps, evaluation)
        return self._finish(seconds, last_loss, evaluation)

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics over the held-out samples; the metrics on the main process only. Collective."""
        loss, outputs = self._forward_all(self._held_out)
        figures = {"eval_loss": loss}
        if self._metrics is not None:
            figures |= self._metrics.compute(outputs, self._held_out.y)
        return figures

    def _observe(self, batch: Batch, lr: float) -> dict[str, Any]:
        """What the diagnostics say of the network before its step on ``batch``. Collective."""
        x, y = batch.x, self._targets(batch.y)
        partition = Minibatch(self.model, x, y, loss=self.loss.name, chunk_size=self.config.diagnostics.chunk)
        scales = self.scaling.predict(*mean_squares(partition))
        return self.observer.measure_step(x, y, scales=scales, lr=lr) | self.observer.measure_probe(
            scales=scales, lr=lr
        )

    def _update(self, batch: Batch, lr: float, *, measure_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """One step; the sum of this rank's losses and, if asked for, the norm of the whole gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        accumulation = self.config.optim.accumulation
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        parts = zip(batch.x.tensor_split(accumulation), batch.y.tensor_split(accumulation), strict=True)
        for part, (x, y) in enumerate(parts, start=1):
            last = part == accumulation
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                losses = self.loss.value(self.model(x), self._targets(y)).sum()
                self.scaling.overlap = last and self.world_size > 1
                self.accelerator.backward(losses * (self.world_size / batch.n_global))
            total += losses.detach()
        clip_norm = self.config.optim.clip_norm
        grad_norm = None
        if measure_gradient or clip_norm is not None:
            limit = math.inf if clip_norm is None else clip_norm
            grad_norm = cast(Tensor, self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        self.optimizer.step()
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
                rank=self.rank,
                world_size=self.world_size,
            ):
                if step == self.steps:
                    return
                yield step, epoch + ((step - first) / per_epoch if per_epoch else 0.0), batch
                step += 1
            if step == first:
                raise UserError(f"data.source: {self.config.data.source!r} gave no training samples")
            epoch += 1

    @torch.no_grad()
    def _forward_all(self, samples: Resident) -> tuple[float, Tensor]:
        """Mean loss and, on every rank, the outputs of all ``samples``. Collective."""
        n = len(samples)
        own = rank_rows(n, self.rank, self.world_size)
        most = -(-n // self.world_size)
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        outputs = samples.x.new_zeros((most, self.data.out_features))
        for start in range(own.start, own.stop, _EVALUATION_ROWS):
            rows = slice(start, min(start + _EVALUATION_ROWS, own.stop))
            f = self.model(samples.x[rows])
            total += self.loss.value(f, self._targets(samples.y[rows])).sum()
            outputs[rows.start - own.start : rows.stop - own.start] = f
        loss = float(self.accelerator.reduce(total)) / n
        gathered = self.accelerator.gather(outputs).unflatten(0, (self.world_size, most))
        sizes = (rank_rows(n, rank, self.world_size) for rank in range(self.world_size))
        parts = [gathered[rank, : rows.stop - rows.start] for rank, rows in enumerate(sizes)]
        return loss, torch.cat(parts)

    @torch.no_grad()
    def _minibatch_loss(self, batch: Batch) -> float:
        """Mean loss of the global minibatch as the network is now. Collective."""
        total = self.loss.value(self.model(batch.x), self._targets(batch.y)).sum(dtype=torch.float64)
        return float(self.accelerator.reduce(total)) / batch.n_global

    def _targets(self, y: Tensor) -> Tensor:
        if self.loss.name == "mse" and self.data.task == "classification":
            return F.one_hot(y, self.data.out_features).to(self._held_out.x.dtype)
        return y

    def _observer(self) -> Observer:
        """On a probe of training samples that stays the same; of held-out ones where training streams."""
        samples = self._train if isinstance(self._train, Resident) else self._held_out
        chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(self.config.run.seed))
        probe = chosen[: self.config.diagnostics.samples]
        own = probe[rank_rows(len(probe), self.rank, self.world_size)].to(samples.x.device)
        x, y = samples.x[own], self._targets(samples.y[own])
        return Observer(self.config.diagnostics, self.model, x, y, loss=self.loss.name)

    def _finish(self, seconds: float, last_loss: float, evaluation: dict[str, float]) -> dict[str, Any]:
        train_loss = self._forward_all(self._train)[0] if isinstance(self._train, Resident) else last_loss
        summary = {
            "steps": self.steps,
            "train_loss": train_loss,
            **evaluation,
            "seconds": seconds,
            "widths": [self.data.in_features, *self._widths()[1:]],
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "seed": self.config.run.seed,
            "world_size": self.world_size,
            "device": self.accelerator.device.type,
            "versions": versions(),
            "git_revision": git_revision(),
        }
        if self.directory is not None:
            self.directory.write_summary(summary)
            self.directory.metrics.close()
        self.accelerator.end_training()
        return summary

    def _widths(self) -> tuple[int, ...]:
        return cast(HomogeneousMLP, self.accelerator.unwrap_model(self.model)).widths

    def _record(self, row: dict[str, Any]) -> None:
        if self.directory is not None:
            self.directory.metrics.write(row)
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=row["step"])

    @torch.no_grad()
    def _diverged(self, step: int, batch: Batch) -> DivergedError:
        """Find the first layer whose weights or preactivations are not finite on any rank. Collective."""
        model = cast(HomogeneousMLP, self.accelerator.unwrap_model(self.model))
        h, first_bad = batch.x, model.depth + 1
        for k, layer in enumerate(model.scaled_layers, start=1):
            z = layer(h)
            if not (layer.weight.isfinite().all() and z.isfinite().all()):
                first_bad = k
                break
            h = model.apply_activation(z)
        found = self.accelerator.gather(torch.tensor([first_bad], device=self.accelerator.device))
        k = int(found.min())
        where = f"layer {k} of {model.depth}" if k <= model.depth else "the loss itself"
        self.accelerator.end_training()
        return DivergedError(
            f"loss: not finite at step {step} (lr {self.schedule(step):.4g}); first in {where}; "
            "a smaller optim.lr or optim.clip_norm may hold it"
        )

    def _count_steps(self) -> int:
        optim = self.config.optim
        if optim.steps is not None:
            return optim.steps
        per_epoch = self._train.steps_per_epoch(optim.batch_size)
        if per_epoch is None:
            raise UserError("optim.steps: null does not fit data.streaming; allowed: a number of steps")
        epochs = _DEFAULT_EPOCHS if optim.epochs is None else optim.epochs
        return max(1, round(epochs * per_epoch))

    def _evaluation_interval(self) -> int:
        if self.config.run.eval_every is not None:
            return self.config.run.eval_every or self.steps
        return self._train.steps_per_epoch(self.config.optim.batch_size) or self.steps

    def _metric_names(self) -> list[str]:
        default = ["accuracy"] if self.data.task == "classification" else ["mse"]
        return default if self.config.run.metrics is None else self.config.run.metrics

    def _open_directory(self) -> RunDirectory | None:
        """Make the run directory and start the trackers; the directory is None on other ranks."""
        run = self.config.run

        def make() -> RunDirectory:
            source = Path(self.config.data.source).stem.strip(".") or "run"
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
            directory = RunDirectory(run.dir, run.name or f"{source}-{stamp}")
            directory.write_config(as_dict(self.config))
            return directory

        directory = self._on_main(make)
        if run.trackers:
            path = [str(directory.path) if directory is not None else ""]
            broadcast_object_list(path)
            self.accelerator.project_configuration.logging_dir = path[0]
            self.accelerator.init_trackers("scaled_sgd", config=_flat(as_dict(self.config)))
        return directory

    def _on_main(self, action: Callable[[], _T]) -> _T | None:
        """Do something on the main process alone; its UserError is raised on every rank. Collective."""
        result, mistake = None, [None]
        if self.accelerator.is_main_process:
            try:
                result = action()
            except UserError as error:
                mistake = [str(error)]  # type: ignore[list-item]
        broadcast_object_list(mistake)
        if mistake[0] is not None:
            raise UserError(mistake[0])
        return result


def _loss_name(config: Config, data: Data) -> str:
    if config.loss == "auto":
        return "cross_entropy" if data.task == "classification" else "mse"
    if config.loss == "cross_entropy" and data.task == "regression":
        raise UserError("loss: 'cross_entropy' does not fit number targets; allowed: mse, auto")
    return config.loss


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys with values that every tracker takes."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float | str) else str(value)
    return flat
