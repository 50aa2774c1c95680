"""Steps of a run: by autograd under any strategy, or fused."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from scaled_sgd.config import Config, OptimConfig
from scaled_sgd.core.losses import Loss
from scaled_sgd.core.products import NARROW
from scaled_sgd.data import rank_rows
from scaled_sgd.diagnostics.taken import AdamState, StepTaken
from scaled_sgd.parallel import Partition, Ranks, reshard
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.steps.captured import Capture, CapturedStep
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.steps.frobenius import FrobeniusDecay
from scaled_sgd.steps.hook import DepthwiseScaling
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.step import Taken, take_step
from scaled_sgd.steps.update import Number, Update, gradient_factors
from scaled_sgd.train.strategies.base import FusedStrategy, GradientStrategy, Strategy
from scaled_sgd.train.strategies.shards import gradient_squares


class StepFunction(Protocol):
    """Updates the weights on one minibatch. Collective.

    Attributes:
        whole: whether each process gets the full minibatch and computes its full loss, instead of only its
            own samples.
    """

    whole: bool

    def __call__(self, x: Tensor, y: Tensor, n: int, lr: float, *, measure: bool) -> Taken:
        """Take a step and return its results.

        Args:
            x: this process's samples, or all.
            y: their targets, in the form that the loss takes.
            n: number of samples of the global minibatch.
            lr: η.
            measure: compute the norm of the whole gradient, before clipping, and the soft ranks.
        """
        ...

    def end(self) -> None:
        """Take no further step."""
        ...


def make_step(
    strategy: Strategy,
    optim: OptimConfig,
    loss: Loss,
    watch: DivergenceWatch,
    *,
    factors: torch.dtype | None = None,
    capture: Capture | None = None,
    say: Callable[[str], object] = print,
) -> StepFunction:
    """The step that the resolved ``optim.update`` names.

    Args:
        strategy: the network and its layout.
        optim: resolved.
        loss: ℓ.
        watch: watches for divergence.
        factors: the type of the factors of fused steps' products; None: that of the weights.
        capture: captures fused steps; None: they run as they are.
        say: called with one line if they cannot be captured.
    """
    if optim.update == "fused":
        assert isinstance(strategy, FusedStrategy)
        return FusedStep(strategy, optim, loss, watch, factors=factors, capture=capture, say=say)
    assert isinstance(strategy, GradientStrategy)
    return AutogradStep(strategy, optim, loss, watch)


def factors_of(config: Config) -> torch.dtype | None:
    """The type of the factors of fused steps' products; None: that of the weights."""
    return NARROW if config.run.precision == "bf16" else None


def step_taken(
    minibatch: Minibatch,
    lr: float,
    optim: OptimConfig,
    scaling: DepthwiseScaling,
    velocity: Callable[[int], Tensor | None],
    adam: AdamState | None = None,
) -> StepTaken:
    """The step that a run is about to take on ``minibatch``, for diagnostics. Collective.

    ``velocity`` gives this process's rows of v_k before the step; ``adam`` is the state of AdamW, if that is
    the optimizer.
    """
    direction, factor = scaling.direction(minibatch.statistics), 1.0
    if optim.limits_gradient:
        squares = minibatch.statistics.gradient_squares
        factors = _factors(optim, squares, clipped_layers(optim, len(squares), squares.device))
        if len(factors) == 1:
            factor = float(factors)
        else:
            # Factors of single layers belong to the direction, and to what preconditions curvature.
            direction = direction.times(factors)
    return StepTaken(
        direction,
        lr,
        factor=factor,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        velocity=velocity,
        known=OPTIMIZERS[optim.optimizer].fused and not optim.frobenius_decay,
        polar=RULES[scaling.rule].polar,
        adam=adam,
    )


def clipped_layers(optim: OptimConfig, depth: int, device: torch.device) -> Tensor | None:
    """The layers (l,) that ``optim.clip_layers`` names; None: all."""
    if optim.clip_layers == "all":
        return None
    named = [depth] if optim.clip_layers == "last" else optim.clip_layers
    return torch.tensor([k in named for k in range(1, depth + 1)], device=device)


def _factors(optim: OptimConfig, squares: Tensor, clipped: Tensor | None) -> Tensor:
    """c_k (l,), or (1,) for all layers, from ‖G_k‖_F² (l,)."""
    return gradient_factors(squares, clip_norm=optim.clip_norm, normalize=optim.normalize, clipped=clipped)


class AutogradStep:
    """Steps by gradients of ``optim.accumulation`` microbatches, scaled, clipped or normalised."""

    whole = False

    def __init__(
        self, strategy: GradientStrategy, optim: OptimConfig, loss: Loss, watch: DivergenceWatch
    ) -> None:
        self._strategy, self._optim, self._loss, self._watch = strategy, optim, loss, watch
        self._clipped = clipped_layers(optim, strategy.network.depth, strategy.device)
        strategy.scaling.squares = self._gradient_squares
        self._squares: Tensor | None = None

    def __call__(self, x: Tensor, y: Tensor, n: int, lr: float, *, measure: bool) -> Taken:
        """Take a step."""
        strategy, optim, scaling = self._strategy, self._optim, self._strategy.scaling
        strategy.zero_grad()
        scaling.statistics = self._squares = None
        if measure:
            scaling.want_statistics()
        total = torch.zeros((), dtype=torch.float64, device=strategy.device)
        parts = zip(x.tensor_split(optim.accumulation), y.tensor_split(optim.accumulation), strict=True)
        for part, (inputs, targets) in enumerate(parts, start=1):
            last = part == optim.accumulation
            with strategy.microbatch(last=last):
                losses = self._loss.value(strategy.forward(inputs), targets).sum()
                strategy.backward(losses * (strategy.data.size / n), last=last)
            total += losses.detach()
        self._watch.see([total], strategy.network.depth + 1)
        norm = factor = None
        if measure or optim.limits_gradient:
            self._squares = strategy.gradient_squares()
            norm = self._squares.sum().sqrt()
        if optim.limits_gradient and self._squares is not None:
            factor = _factors(optim, self._squares, self._clipped)
        strategy.step(lr, factor)
        # None where a step was skipped whose gradients overflowed.
        found = scaling.statistics if measure else None
        return Taken(total, n, scaling.scales, norm, None if found is None else found.soft_ranks)

    def end(self) -> None:
        """No-op: nothing is kept for further steps."""

    def _gradient_squares(self) -> Tensor:
        """‖G_k‖_F² (l,) of this step, asked for where a loss scale has been taken out."""
        if self._squares is None:
            self._squares = gradient_squares(self._strategy.shards, self._strategy.device)
        return self._squares


class FusedStep:
    """Updates that are added to the weights as they are computed (:mod:`scaled_sgd.steps.step`).

    ``factors`` is the type of the factors of its products; None: that of the weights.
    """

    def __init__(
        self,
        strategy: FusedStrategy,
        optim: OptimConfig,
        loss: Loss,
        watch: DivergenceWatch,
        *,
        factors: torch.dtype | None = None,
        capture: Capture | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        self._strategy, self._optim, self._loss, self._watch = strategy, optim, loss, watch
        strategy.scaling.measure_elsewhere()
        self.whole = STRATEGIES[strategy.name].rows
        ranks = None if self.whole else Ranks.alone()
        self._partition = Partition.of(strategy.network, ranks=ranks, factors=factors)
        self._clipped = clipped_layers(optim, self._partition.depth, strategy.device)
        self._captured: CapturedStep | None = None
        if capture is not None:
            self._captured = CapturedStep(self._take, capture, say, ranks=strategy.data)
            self._lr = torch.zeros((), dtype=torch.float64, device=strategy.device)

    def __call__(self, x: Tensor, y: Tensor, n: int, lr: float, *, measure: bool) -> Taken:
        """Take a step."""
        scaling = self._strategy.scaling
        if self.whole:
            # Evaluation leaves FSDP2's weights gathered.
            reshard(self._strategy.network)
        if self._captured is None:
            taken = self._take(x, y, lr, n, measure)
        else:
            rate, ready = self._lr.fill_(lr), not scaling.settling
            taken = self._captured(x, y, rate, n, measure=measure, ready=ready)
        scaling.record(taken.scales)
        return taken

    def end(self) -> None:
        """Free what was captured: NCCL does not leave its communicator while a graph has a part in it."""
        if self._captured is not None:
            self._captured.forget()

    def _take(self, x: Tensor, y: Tensor, lr: Number, n: int, measure: bool) -> Taken:
        strategy, optim, data = self._strategy, self._optim, self._strategy.data
        shares = [rank_rows(n, rank, data.size) for rank in range(data.size)]
        number = optim.frobenius_decay
        decay = FrobeniusDecay.of(self._partition, number) if number else None
        return take_step(
            self._partition,
            x,
            y,
            loss=self._loss,
            direct=strategy.scaling.direction,
            update=Update(
                lr=lr,
                weight_decay=optim.weight_decay,
                momentum=optim.momentum,
                velocity=strategy.velocity,
                clip_norm=optim.clip_norm,
                normalize=optim.normalize,
                clipped=self._clipped,
                frobenius=decay,
            ),
            ranks=None if self.whole else data,
            sizes=[n] if self.whole else [rows.stop - rows.start for rows in shares],
            by_factors=strategy.exchange,
            measure=measure,
            see=self._watch.see,
        )
