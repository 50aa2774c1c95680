"""A run on any number of processes: the loop with a durable run directory, checkpoints and interrupts."""

import contextlib
from dataclasses import replace
from typing import Any, cast

from accelerate import Accelerator

from scaled_sgd.config import Config, as_dict
from scaled_sgd.core.errors import CheckpointError, LostError, printable
from scaled_sgd.core.smooth import Smooth
from scaled_sgd.data import load_data
from scaled_sgd.data.metrics import load_metrics
from scaled_sgd.diagnostics.eigenpairs import Eigenpairs
from scaled_sgd.parallel import Partition, threads
from scaled_sgd.parallel.agreement import from_first_rank, on_every_rank, on_first_rank
from scaled_sgd.parallel.exchange import described
from scaled_sgd.runs import rows
from scaled_sgd.runs.checkpoint import Checkpoint
from scaled_sgd.runs.directory import RunDirectory
from scaled_sgd.runs.records import read_metrics, tracked
from scaled_sgd.runs.summary import sizes_cut
from scaled_sgd.runs.vectors import write_vectors
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.steps.rules import RULES
from scaled_sgd.train.capturing import capture_for, why_not
from scaled_sgd.train.handshake import agree_on_places, agree_on_run
from scaled_sgd.train.interrupts import Interrupts
from scaled_sgd.train.loop import Loop
from scaled_sgd.train.progress import Progress
from scaled_sgd.train.recording import RunRecord
from scaled_sgd.train.resolution import resolve
from scaled_sgd.train.resuming import check_start, find_start, open_directory
from scaled_sgd.train.saver import Saver
from scaled_sgd.train.saving import Saving
from scaled_sgd.train.session import Session
from scaled_sgd.train.snapshot import Progressed
from scaled_sgd.train.stepper import OneNetwork
from scaled_sgd.train.steps import factors_of, make_step
from scaled_sgd.train.strategies.build import Request, build_strategy
from scaled_sgd.train.strategies.launched import world_of


class Trainer:
    """One run: data, network, optimizer, records.

    Every rank holds the training data and takes its rows of each global minibatch; losses are summed
    and divided by the global number of samples, so that a step is the same for any number of processes
    and any accumulation.

    Args:
        config: a checked configuration.
        accelerator: the world to run in (see :func:`scaled_sgd.train.accelerator.create_accelerator`).
        source: data in memory, in place of ``data.source``.

    Raises:
        UserError: the data, the metrics, the trackers or the run directory do not fit.
    """

    def __init__(self, config: Config, accelerator: Accelerator, *, source: Any = None) -> None:
        self.accelerator = accelerator
        self.directory: RunDirectory | None = None
        try:
            self._set_up(config, accelerator, source)
        except BaseException:
            self._let_go()
            raise

    def _set_up(self, config: Config, accelerator: Accelerator, source: Any) -> None:
        quiet, seed = accelerator.process_index > 0, config.run.seed
        data = on_every_rank(lambda: load_data(config.data, seed=seed, quiet=quiet, source=source))
        asked = config.optim.update
        self.config = config = resolve(config, data, world_of(accelerator))
        # Stored as asked: another strategy that takes the run up may have no fused steps.
        stored = replace(config, optim=replace(config.optim, update=asked))
        agree_on_run(config, data, accelerator.device, accelerator.num_processes)
        start = find_start(config)
        self.directory = start.directory
        changes = [] if start.checkpoint is None else check_start(start.checkpoint, config, data)
        self.strategy = build_strategy(Request(config, accelerator, data.in_features, data.out_features))
        agree_on_places(self.strategy, config)
        metrics = on_first_rank(lambda: load_metrics(config.run.metrics or [], data.task))
        self.session = Session(config, data, self.strategy, metrics)
        watch = DivergenceWatch(self.strategy.network.depth, accelerator.device)
        if config.optim.update == "autograd":
            watch.attach(self.strategy.network)
        step = make_step(
            self.strategy,
            config.optim,
            self.session.loss,
            watch,
            factors=factors_of(config),
            capture=capture_for(config, self.strategy),
            say=lambda line: self._record.say(line),
        )
        self._stepper = OneNetwork(self.session, step, watch)
        self.directory = on_first_rank(lambda: open_directory(stored, start))
        self.folder = from_first_rank(lambda: cast(RunDirectory, self.directory).path)
        if config.run.trackers:
            accelerator.project_configuration.logging_dir = str(self.folder)
            accelerator.init_trackers("scaled_sgd", config=tracked(as_dict(config)))
        self._record = RunRecord(self.session, self.directory, accelerator, self._stepper.end)
        if self.session.observer is not None and config.diagnostics.keep_vectors:
            self.session.observer.keep = self._keep_vectors
        self._record.say(f"data: {data.describe()}")
        network = self.strategy.network
        if isinstance(network.activation, Smooth) and network.factored.depth > 1:
            hidden = network.factored.depth - 1
            self._record.say(f"model.activation: {network.activation.describe(hidden)}")
        for note in data.notes:
            self._record.say(printable(note))
        if OPTIMIZERS[config.optim.optimizer].divides and config.optim.lr > 0.1:
            self._record.say(
                f"warning: optim.lr: {config.optim.lr:g} is far above usual rates of "
                f"{config.optim.optimizer}, 1e-4 to 1e-2: it moves weights by about the rate in each step"
            )
        rule = RULES[config.scaling.rule]
        if rule.polar and config.optim.update == "autograd":
            self._record.say(
                f"warning: scaling.rule: {rule.name!r} by autograd orthogonalises whole gradients, which "
                "takes many times a fused step of wide layers; 'unit' and 'norm' cost next to nothing"
            )
        elif OPTIMIZERS[config.optim.optimizer].divides and rule.name != "none":
            self._record.say(
                f"warning: scaling.rule: {config.scaling.rule!r} does next to nothing with optim.optimizer "
                f"{config.optim.optimizer}, which divides a layer's factor out; 'none' saves its cost"
            )
        for warning in data.warnings:
            self._record.say(printable(f"warning: {warning}"))
        for line in sizes_cut(config, data):
            self._record.say(line)
        if accelerator.is_main_process and accelerator.device.type == "cpu":
            told = threads.advice(network.widths, config.optim.batch)
            if told is not None:
                self._record.say(told)
        self._saver = Saver(
            config,
            data,
            self.strategy,
            self.session.observer,
            self.session.schedule,
            accelerator.scaler,
        )
        self._start = Progressed()
        if start.checkpoint is not None:
            self._resume(start.checkpoint, changes)
        elif told := self.session.find_rate():
            self._record.say(told)
        if reason := why_not(config, self.strategy):
            self._record.say(f"steps are not captured as CUDA graphs: {reason}")
        if self.strategy.exchange is not None:
            self._record.say(f"exchange: {described(self.strategy.exchange)}")

    def run(self) -> dict[str, Any]:
        """Train to the end; returns the summary.

        Raises:
            DivergedError: the loss became non-finite; all earlier rows are on the disk.
            LostError: the run directory is gone, or the newest checkpoint could not be written.
            StoppedError: a signal arrived; the run was saved after the current step.
        """
        at, record, steps = self._start, self._record, self.session.steps
        shown = self.accelerator.is_main_process
        with Interrupts() as interrupts, Progress(steps, start=at.step, enabled=shown) as progress:
            record.begin(progress, before=at.seconds)
            loop = Loop([self.session], self._stepper, [record], at=at)
            saving = Saving(loop, self._saver, record, interrupts, self.folder)
            loop.callbacks = [progress, saving]
            try:
                (summary,) = loop.run()
            finally:
                self._stepper.end()
                self._let_go()
        if saving.problem is not None and self._saver.due(self.session.steps):
            raise LostError(f"{saving.problem}; the run is done, but not saved")
        return summary

    def _let_go(self) -> None:
        """Release the run directory, whose process, such as a notebook, may live on."""
        if self.directory is not None:
            # A disk that fails now is not what ended the run.
            with contextlib.suppress(OSError):
                self.directory.close()

    def _keep_vectors(self, partition: Partition, pairs: Eigenpairs) -> None:
        """Write the eigenvectors of H before the coming step; a warning where that fails. Collective."""
        if not bool(pairs.values.isfinite().all()):
            return
        vectors = [pairs.expand(i) for i in range(len(pairs.values))]
        try:
            write_vectors(self.folder, self._start.step, partition, pairs.values.tolist(), vectors)
        except CheckpointError as error:
            self._record.say(f"warning: {error}; the run continues")

    def _resume(self, checkpoint: Checkpoint, changes: list[str]) -> None:
        at = self._start = self._saver.restore(checkpoint)
        if at.max_loss is None:
            at.max_loss = from_first_rank(self._largest_logged)
        self._record.say(
            f"resumed: {checkpoint.path} at step {at.step} of {self.session.steps}"
            + (f"; changed: {', '.join(changes)}" if changes else "")
        )

    def _largest_logged(self) -> float | None:
        known = [loss for loss in (self._start.first_loss, self._start.last_loss) if loss is not None]
        return max([*known, *rows.losses(read_metrics(self.folder / "metrics.jsonl"))], default=None)
