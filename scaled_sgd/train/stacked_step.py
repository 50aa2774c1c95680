"""Steps of several runs of one shape at once."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scaled_sgd.config import Config
from scaled_sgd.core.losses import Loss
from scaled_sgd.steps.captured import Capture, CapturedStep
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.steps.frobenius import FrobeniusDecay
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.stack import Stack
from scaled_sgd.steps.statistics import Statistics
from scaled_sgd.steps.step import Taken, take_step
from scaled_sgd.steps.update import Update
from scaled_sgd.train.steps import clipped_layers


class StackedStep:
    """Steps of B networks of one shape at once; settings that differ between them are tensors.

    Args:
        stack: the networks.
        configs: their configurations; equal except for rule, rates, momentum (all with or all without), decay
            and gradient limits.
        loss: ℓ of all networks.
        watch: a watch for B networks.
        capture: captures steps; None: they run as they are.
        say: called with one line if they cannot be captured.
    """

    def __init__(
        self,
        stack: Stack,
        configs: Sequence[Config],
        loss: Loss,
        watch: DivergenceWatch,
        *,
        capture: Capture | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        self.stack, self._loss, self._watch = stack, loss, watch
        self._captured = None if capture is None else CapturedStep(self._take, capture, say)
        optims = [config.optim for config in configs]
        device = stack.alpha.device

        def column(values: Sequence[object], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        def spread(name: str) -> Tensor | float:
            values = [getattr(optim, name) for optim in optims]
            return column(values)[:, None, None] if any(values) else 0.0

        self._momentum, self._weight_decay = spread("momentum"), spread("weight_decay")
        self._frobenius = spread("frobenius_decay")
        limited = any(optim.limits_gradient for optim in optims)
        self._clip_norm = column([optim.clip_norm or math.inf for optim in optims]) if limited else None
        self._normalize: Tensor | bool = (
            column([optim.normalize for optim in optims], torch.bool) if limited else False
        )
        masks = [clipped_layers(optim, stack.depth, device) for optim in optims]
        every = torch.ones(stack.depth, dtype=torch.bool, device=device)
        self._clipped: Tensor | None = None
        if any(mask is not None for mask in masks):
            self._clipped = torch.stack([every if mask is None else mask for mask in masks])
        has_momentum = isinstance(self._momentum, Tensor)
        self._velocities = [torch.zeros_like(W) for W in stack.weights] if has_momentum else []
        names = list(dict.fromkeys(config.scaling.rule for config in configs))
        self._rules = [RULES[name].with_settings(configs[0].scaling.settings) for name in names]
        self._rule = column([names.index(config.scaling.rule) for config in configs], torch.int64)
        self._static = column([config.scaling.static for config in configs], torch.bool)
        self._frozen: Tensor | None = None

    def keep(self, rows: Sequence[int]) -> Tensor:
        """Continue with some networks only, in the same order. Returns their indices, on the device."""
        index = self.stack.keep(rows)
        for name in (
            "_momentum",
            "_weight_decay",
            "_frobenius",
            "_clip_norm",
            "_normalize",
            "_clipped",
            "_frozen",
        ):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value[index])
        self._rule, self._static = self._rule[index], self._static[index]
        self._velocities = [v.index_select(0, index) for v in self._velocities]
        self._watch.keep(index)
        self.end()
        return index

    def end(self) -> None:
        """Free what was captured."""
        if self._captured is not None:
            self._captured.forget()

    def velocity(self, row: int, k: int) -> Tensor | None:
        """v_k of one network; None without momentum."""
        return self._velocities[k - 1][row] if self._velocities else None

    def __call__(self, x: Tensor, y: Tensor, lr: Tensor, *, measure: bool) -> Taken:
        """Take one step of every network, without waiting for the device.

        Args:
            x: inputs (B, n, m_0), or (n, m_0) for all networks.
            y: targets, likewise (B, n) or (n,), (B, n, m_l) or (n, m_l).
            lr: η of each network (B,), float64.
            measure: compute the norms of the gradients and the soft ranks.
        """
        if self._captured is None:
            taken = self._take(x, y, lr, x.shape[-2], measure)
        else:
            taken = self._captured(x, y, lr, x.shape[-2], measure=measure)
        if self._frozen is None:
            self._frozen = taken.scales
        return taken

    def _take(self, x: Tensor, y: Tensor, lr: Tensor, n: int, measure: bool) -> Taken:
        decayed = isinstance(self._frobenius, Tensor)
        decay = FrobeniusDecay.of(self.stack, self._frobenius) if decayed else None
        if x.ndim == 2:
            y = y.expand(len(self.stack), *y.shape)
        return take_step(
            self.stack,
            x,
            y,
            loss=self._loss,
            direct=self._direction,
            update=Update(
                lr=lr[:, None, None],
                weight_decay=self._weight_decay,
                momentum=self._momentum,
                velocity=lambda k: self._velocities[k - 1],
                clip_norm=self._clip_norm,
                normalize=self._normalize,
                clipped=self._clipped,
                frobenius=decay,
            ),
            sizes=[n],
            measure=measure,
            see=self._watch.see,
        )

    def _direction(self, statistics: Statistics) -> Direction:
        """Each network's rule; the first step's numbers where it is static."""
        if not self._rules[0].scalar:
            # Runs with a rule of matrices are stacked only with runs of the same rule, and none is static.
            return self._rules[0](statistics)
        numbers = torch.zeros_like(statistics.F)
        for place, rule in enumerate(self._rules):
            numbers = torch.where((self._rule == place)[:, None], rule(statistics).numbers, numbers)
        if self._frozen is not None:
            numbers = torch.where(self._static[:, None], self._frozen[:, statistics.layers], numbers)
        return Direction(numbers)
