"""A step of a run: by autograd under any strategy, or fused where no gradient is wanted."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from scaled_sgd.config import OptimConfig
from scaled_sgd.core.losses import Loss
from scaled_sgd.data import rank_rows
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.parallel import Partition, Ranks, reshard
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.steps.fused import Update, fused_step, gradient_factor
from scaled_sgd.steps.gradients import gradient_square_norms
from scaled_sgd.steps.hook import DepthwiseScaling
from scaled_sgd.steps.scales import mean_squares
from scaled_sgd.steps.signals import Minibatch
from scaled_sgd.train.strategies.base import FusedStrategy, GradientStrategy, Strategy


class Step(Protocol):
    """Updates the weights by one minibatch. Collective."""

    def __call__(
        self, x: Tensor, y: Tensor, n: int, lr: float, *, measure_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The sum of this process's losses () before the update, and ‖G‖_F () where known.

        Args:
            x: this process's samples.
            y: their targets, as the loss takes them.
            n: samples of the global minibatch.
            lr: η.
            measure_gradient: find the norm of the whole gradient, before clipping and scaling.
        """
        ...


def make_step(strategy: Strategy, optim: OptimConfig, loss: Loss, watch: DivergenceWatch) -> Step:
    """The step that ``optim.fused_update`` asks for."""
    if optim.fused_update:
        assert isinstance(strategy, FusedStrategy)
        return FusedStep(strategy, optim, loss, watch)
    assert isinstance(strategy, GradientStrategy)
    return AutogradStep(strategy, optim, loss)


def step_taken(
    minibatch: Minibatch,
    lr: float,
    optim: OptimConfig,
    scaling: DepthwiseScaling,
    velocity: Callable[[int], Tensor | None],
) -> StepTaken:
    """The step that a run is about to take on ``minibatch``, for diagnostics. Collective.

    ``velocity`` gives this process's rows of v_k before the step.
    """
    factor = 1.0
    if optim.limits_gradient:
        norm = gradient_square_norms(minibatch).sum().sqrt()
        factor = float(gradient_factor(norm, clip_norm=optim.clip_norm, normalize=optim.normalize))
    return StepTaken(
        Direction.scalar(scaling.predict(*mean_squares(minibatch))),
        lr,
        factor=factor,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        velocity=velocity,
    )


class AutogradStep:
    """Gradients of ``optim.accumulation`` microbatches, clipped or normalised, scaled, stepped by."""

    def __init__(self, strategy: GradientStrategy, optim: OptimConfig, loss: Loss) -> None:
        self._strategy, self._optim, self._loss = strategy, optim, loss

    def __call__(
        self, x: Tensor, y: Tensor, n: int, lr: float, *, measure_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`Step`."""
        strategy, optim = self._strategy, self._optim
        strategy.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=strategy.device)
        parts = zip(x.tensor_split(optim.accumulation), y.tensor_split(optim.accumulation), strict=True)
        for part, (inputs, targets) in enumerate(parts, start=1):
            last = part == optim.accumulation
            with strategy.microbatch(last=last):
                losses = self._loss.value(strategy.forward(inputs), targets).sum()
                strategy.backward(losses * (strategy.data.size / n), last=last)
            total += losses.detach()
        norm = strategy.gradient_norm() if measure_gradient or optim.limits_gradient else None
        if optim.limits_gradient and norm is not None:
            factor = gradient_factor(norm, clip_norm=optim.clip_norm, normalize=optim.normalize)
            strategy.scale_gradients(factor)
        strategy.step(lr)
        return total, norm


class FusedStep:
    """Updates that are added to the weights as they are computed (:mod:`scaled_sgd.steps.fused`)."""

    def __init__(
        self, strategy: FusedStrategy, optim: OptimConfig, loss: Loss, watch: DivergenceWatch
    ) -> None:
        self._strategy, self._optim, self._loss, self._watch = strategy, optim, loss, watch
        strategy.scaling.measure_elsewhere()
        self._in_rows = strategy.name != "ddp"
        ranks = None if self._in_rows else Ranks.alone()
        self._partition = Partition.of(strategy.network, ranks=ranks)

    def __call__(
        self, x: Tensor, y: Tensor, n: int, lr: float, *, measure_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`Step`."""
        strategy, optim, data = self._strategy, self._optim, self._strategy.data
        layers = strategy.network.scaled_layers
        sizes = [
            rows.stop - rows.start for rows in (rank_rows(n, rank, data.size) for rank in range(data.size))
        ]
        if self._in_rows:
            # Evaluation leaves FSDP2's weights gathered.
            reshard(strategy.network)
            x, y = data.gather(x, sizes), data.gather(y, sizes)
        taken = fused_step(
            self._partition,
            x,
            y,
            loss=self._loss,
            scale=strategy.scaling.predict_layers,
            update=Update(
                lr=lr,
                weight_decay=optim.weight_decay,
                momentum=optim.momentum,
                velocity=lambda k: strategy.optimizer.velocity(layers[k - 1].weight),
                clip_norm=optim.clip_norm,
                normalize=optim.normalize,
            ),
            ranks=None if self._in_rows else data,
            sizes=[n] if self._in_rows else sizes,
            by_factors=strategy.exchange,
            measure_gradient=measure_gradient,
            see=self._watch.see,
        )
        strategy.scaling.record(taken.scales)
        # All processes saw all samples; their sums are added up again where losses are recorded.
        return taken.loss / data.size if self._in_rows else taken.loss, taken.grad_norm
