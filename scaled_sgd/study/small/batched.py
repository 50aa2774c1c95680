"""Trains runs of one shape as one stacked computation."""

import json
import time
from collections.abc import Sequence
from functools import partial
from warnings import warn

import torch
from torch import Tensor

from scaled_sgd.config import KEYS, Config, flat
from scaled_sgd.data import Batch, Data, load_data
from scaled_sgd.parallel import Ranks
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.stack import Stack
from scaled_sgd.steps.step import Taken
from scaled_sgd.study.grid.identity import deciding
from scaled_sgd.study.small.session import OneProcess, find_device, small_session, stepper_of
from scaled_sgd.train.capturing import capture_for
from scaled_sgd.train.session import Session
from scaled_sgd.train.stacked_step import StackedStep
from scaled_sgd.train.stepper import Stepper
from scaled_sgd.train.steps import factors_of

_TIMED = 16
"""Largest numbers of runs and of steps in a trial."""


def same_shape(config: Config) -> str:
    """A key that is equal for runs that can train together."""
    kept = flat({name: value for name, value in deciding(config).items() if not KEYS[name].stacked})
    kept |= {"run.device": config.run.device, "momentum": config.optim.momentum > 0}
    if not RULES[config.scaling.rule].scalar:
        kept["scaling.rule"] = config.scaling.rule
    return json.dumps(kept, sort_keys=True)


def can_be_stacked(config: Config) -> bool:
    """Whether steps of a stack are those of the run, whose rates must be known before."""
    return OPTIMIZERS[config.optim.optimizer].stacked and not config.optim.measures_rate


def faster_batched(configs: Sequence[Config], data: Data | None = None) -> bool:
    """Whether the runs of the most common shape train faster together, by timing a few steps of both ways.

    On a CPU the answer is no, without a trial: a stack rounds differently than a single run, and a study that
    was stopped and resumed must give the same tables as one that was not. Measured speed-ups of stacks at
    depth 6 on one core: 3.3 at base width 4 and batches of 32, 1.8 at 8 and 128, 1.1 at 16 and 128.
    """
    stacked = [config for config in configs if can_be_stacked(config)]
    if not stacked or find_device(configs[0]).type == "cpu":
        return False
    shapes: dict[str, list[Config]] = {}
    for config in stacked:
        shapes.setdefault(same_shape(config), []).append(config)
    alike = max(shapes.values(), key=len)[:_TIMED]
    data = load_data(alike[0].data, seed=alike[0].run.seed) if data is None else data
    alone = small_session(alike[0], data)
    one_by_one = _seconds([alone], stepper_of(alone)) * len(alike)
    sessions = [small_session(config, data) for config in alike]
    return _seconds(sessions, Together(sessions)) < one_by_one


class Together:
    """Steps of several runs of one shape: batched products, separate ξ for each network.

    Runs with the same data and seed share their minibatches.

    Raises:
        ValueError: the shapes differ.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        if len({same_shape(session.config) for session in sessions}) > 1:
            raise ValueError("configs: of several shapes; allowed: those that same_shape gives one value")
        first = sessions[0]
        depth, device = first.strategy.network.depth, first.strategy.device
        self.ranks, self._loss = Ranks.alone(), depth + 1
        self._sessions = list(sessions)
        self._watch = DivergenceWatch(depth, device, count=len(sessions))
        factors = factors_of(first.config)
        stack = Stack([session.strategy.network for session in sessions], factors=factors)
        configs = [session.config for session in sessions]
        self._step = StackedStep(
            stack,
            configs,
            first.loss,
            self._watch,
            capture=capture_for(first.config, first.strategy),
            say=warn,
        )
        rates = [[session.schedule(step) for session in sessions] for step in range(first.steps)]
        self._rates = torch.tensor(rates, dtype=torch.float64, device=device)
        self._lend_velocities()

    def take(self, step: int, batches: Sequence[Batch], *, measure: bool) -> Taken:
        """Take a step of each run on its minibatch, without waiting for the device."""
        self._watch.start_step(step)
        x, y = together(batches)
        taken = self._step(x, y, self._rates[step], measure=measure)
        if step == 0 or measure:
            for session, scales in zip(self._sessions, taken.scales, strict=True):
                session.strategy.scaling.record(scales)
        return taken

    def see(self, losses: Sequence[Tensor]) -> None:
        """Record each run's loss after the last step."""
        self._watch.see([torch.stack(list(losses))], self._loss)

    def found(self) -> list[tuple[int, int] | None]:
        """Step and layer of each run's first non-finite number. Synchronises."""
        return [self._watch.place(code) for code in self._watch.first.tolist()]

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with some runs only."""
        index = self._step.keep(rows)
        self._sessions = [self._sessions[row] for row in rows]
        self._rates = self._rates.index_select(1, index)
        self._lend_velocities()

    def end(self) -> None:
        """Free what was captured."""
        self._step.end()

    def _lend_velocities(self) -> None:
        """Give every run's diagnostics its part of the stack's momentum."""
        for row, session in enumerate(self._sessions):
            assert isinstance(session.strategy, OneProcess)
            session.strategy.lent = partial(self._step.velocity, row)


def together(batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Inputs and targets for a stack: one minibatch if all networks share it, else one per network."""
    if all(batch is batches[0] for batch in batches):
        return batches[0].own()
    x, y = zip(*(batch.own() for batch in batches), strict=True)
    return torch.stack(x), torch.stack(y)


def _seconds(sessions: Sequence[Session], stepper: Stepper) -> float:
    """Seconds per step, after the first few steps."""
    session = sessions[0]
    minibatches = session.samples.minibatches(session.strategy.data)
    steps, start, taken = min(_TIMED // 4 + _TIMED, session.steps), time.perf_counter(), 0
    for step, batch in zip(range(steps), minibatches, strict=False):
        if step == min(_TIMED // 4, steps - 1):
            torch.cuda.synchronize()
            start, taken = time.perf_counter(), 0
        stepper.take(step, [batch for _ in sessions], measure=False)
        taken += 1
    torch.cuda.synchronize()
    found = (time.perf_counter() - start) / taken
    stepper.end()
    return found
