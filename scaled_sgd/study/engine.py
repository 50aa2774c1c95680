"""One small run inside this process: no launcher, no autograd, no optimizer object."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.config import Config
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Data
from scaled_sgd.data.metrics.evaluation import TASK_OF_BUILT_IN
from scaled_sgd.parallel import Partition, Ranks
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.steps.step import Taken, take_step
from scaled_sgd.steps.update import Update
from scaled_sgd.study.record import Record
from scaled_sgd.study.run import Cut, Run


def unsuited(config: Config) -> str | None:
    """Why a run has to go through the trainer, in one line; None where :func:`train_small` can take it.

    ``optim.accumulation`` is no reason: a step is the same in one piece. No checkpoints are written, but
    a configuration that names steps for them wants them.
    """
    run, sharding, checkpoint = config.run, config.sharding, config.checkpoint
    built_in = list(TASK_OF_BUILT_IN)
    for key, value, fits, allowed in (
        ("data.streaming", config.data.streaming, not config.data.streaming, "false"),
        ("run.precision", run.precision, run.precision == "no", "no"),
        ("run.processes", run.processes, run.processes in (None, 1), "1, or null"),
        ("run.resume", run.resume, run.resume == "no", "no"),
        ("run.trackers", run.trackers, not run.trackers, "none"),
        ("run.metrics", run.metrics, set(run.metrics or []) <= set(built_in), ", ".join(built_in)),
        ("sharding.strategy", sharding.strategy, sharding.strategy in ("auto", "ddp"), "auto, ddp"),
        ("sharding.exchange", sharding.exchange, sharding.exchange == "auto", "auto"),
        (
            "sharding.activation_checkpointing",
            sharding.activation_checkpointing,
            not sharding.activation_checkpointing,
            "false",
        ),
        ("checkpoint.every_steps", checkpoint.every_steps, checkpoint.every_steps is None, "null"),
        ("checkpoint.keep_steps", checkpoint.keep_steps, not checkpoint.keep_steps, "none"),
    ):
        if not fits:
            return f"{key}: {value!r} is for the trainer; allowed in a small run: {allowed}"
    return None


def train_small(config: Config, data: Data, folder: Path) -> dict[str, Any]:
    """Train to the end, or to the step whose loss is not finite; returns the summary.

    ``folder`` then holds config.yaml, metrics.jsonl and, written last, summary.json, with the numbers of
    :class:`scaled_sgd.train.trainer.Trainer` on one process. A loss that grows and stays finite trains on, as
    there. On a GPU the loss is looked at where it is logged.

    Raises:
        UserError: the run has to go through the trainer, or does not fit the data, this machine or the
            folder.
    """
    refuse_unsuited(config)
    run = Run(config, data)
    take, depth, on_cpu = Steps(run), run.model.depth, run.device.type == "cpu"
    largest: Tensor | float = 0.0
    with Record(run, folder) as record:
        for cut in run.cuts():
            # A look at a number costs nothing on the CPU, and elsewhere the wait for it.
            if (on_cpu or cut.step in run.logged) and not math.isfinite(largest):
                break
            row = record.begin(cut)
            taken = take(cut, measure_gradient=row is not None)
            loss = float(taken.loss) / taken.n if on_cpu else taken.loss / taken.n
            largest = _larger(largest, loss)
            if row is not None:
                assert taken.grad_norm is not None
                norm, scales = float(taken.grad_norm), taken.scales.tolist()
                record.end(row, cut, loss=float(loss), grad_norm=norm, scales=scales)
        # The last update shows in no step.
        take.watch.see(run.probe_loss(), depth + 1)
        found = take.watch.found()
        return record.finished(float(largest)) if found is None else record.diverged(*found)


class Steps:
    """The steps of one run, in order.

    Attributes:
        watch: sees every step.
    """

    def __init__(self, run: Run) -> None:
        self._run, optim = run, run.config.optim
        self._partition = Partition.of(run.model, ranks=Ranks.alone())
        velocities = [torch.zeros_like(W) for W in run.model.parameters()] if optim.momentum else []
        if velocities:
            run.velocity = lambda k: velocities[k - 1]
        self._make_update = partial(
            Update,
            weight_decay=optim.weight_decay,
            momentum=optim.momentum,
            velocity=lambda k: velocities[k - 1],
            clip_norm=optim.clip_norm,
            normalize=optim.normalize,
        )
        self._update = self._make_update(lr=run.schedule(0))
        self.watch = DivergenceWatch(run.model.depth, run.device)

    def __call__(self, cut: Cut, *, measure_gradient: bool) -> Taken:
        """Take one."""
        run, lr = self._run, self._run.schedule(cut.step)
        if lr != self._update.lr:
            self._update = self._make_update(lr=lr)
        self.watch.start_step(cut.step)
        taken = take_step(
            self._partition,
            cut.x,
            cut.y,
            loss=run.loss,
            direct=run.scaling.direction,
            update=self._update,
            sizes=[len(cut.x)],
            measure=measure_gradient,
            see=self.watch.see,
        )
        self.watch.see(taken.loss, run.model.depth + 1)
        run.scaling.record(taken.scales)
        return taken


def _larger(a: Tensor | float, b: Tensor | float) -> Tensor | float:
    """The larger, nan where one is; tensors on a device that is not to be waited for, else numbers."""
    if isinstance(b, Tensor):
        return torch.maximum(torch.as_tensor(a, device=b.device), b)
    return b if math.isnan(b) else max(a, b)


def refuse_unsuited(config: Config) -> None:
    """Raise UserError where :func:`unsuited` has a reason."""
    reason = unsuited(config)
    if reason is not None:
        raise UserError(reason)


def train(configs: Sequence[Config], data: Sequence[Data], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Train like runs, each on its data and into its folder: together where they are several."""
    if len(configs) == 1:
        return [train_small(configs[0], data[0], folders[0])]
    from scaled_sgd.study.batched import train_batch

    return train_batch(configs, data, folders)
