"""The interface between the training loop and strategies."""

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.diagnostics.taken import AdamState
from scaled_sgd.parallel import Partition, Ranks
from scaled_sgd.steps.hook import DepthwiseScaling
from scaled_sgd.steps.optimizer import ScaledSGD
from scaled_sgd.train.strategies.shards import Shard, gradient_squares, state_rows


class Strategy(ABC):
    """A network and its layout over the processes.

    Attributes:
        name: its name in ``sharding.strategy``.
        network: the network itself, whose weights may be sharded.
        module: the wrapped network, to be called.
        scaling: measures the signals of a step and gives ξ.
        shards: this process's part of each layer.
        data: the processes that train on different samples of a minibatch.
        tensor: the processes that work together on the same samples.
        optimizer: holds the state between steps; does not step itself under fused steps.
        kept: maps checkpoint names of its tensors of a weight's size to their names in its state.
        exchange: for each layer, whether fused steps exchange its factors instead of its gradient; None if
            there is no such choice.
    """

    name: str
    network: HomogeneousMLP
    module: nn.Module
    scaling: DepthwiseScaling
    shards: Sequence[Shard]
    data: Ranks
    tensor: Ranks
    exchange: Sequence[bool] | None = None
    optimizer: Optimizer
    kept: Mapping[str, str]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs f (n, m_l) of this process's samples. Collective if weights are sharded."""
        f: Tensor = self.module(x)
        return f

    def velocity_rows(self, partition: Partition) -> Callable[[int], Tensor | None]:
        """This process's rows of v_k before a step; None while it is zero. Collective."""
        return state_rows(self.shards, partition)

    def adam_state(self, partition: Partition) -> AdamState | None:
        """What AdamW holds before a step; None if the optimizer is another or keeps the largest squares."""
        optimizer = getattr(self, "optimizer", None)
        if not isinstance(optimizer, torch.optim.AdamW) or optimizer.param_groups[0]["amsgrad"]:
            return None
        group = optimizer.param_groups[0]
        (kind,) = [kind for kind, name in self.kept.items() if name == "exp_avg_sq"]
        steps = optimizer.state.get(self.network.scaled_layers[0].weight, {}).get("step", 0)
        squares = state_rows(self.shards, partition, kind)
        return AdamState(group["betas"], group["eps"], int(steps), squares)

    @property
    def device(self) -> torch.device:
        """Device of the losses."""
        return self.scaling.scales.device


class GradientStrategy(Strategy):
    """A strategy that trains by autograd.

    A step is: :meth:`zero_grad`; for each microbatch :meth:`forward` and :meth:`backward` within
    :meth:`microbatch`; optionally :meth:`gradient_squares`; :meth:`step`. The loss passed to ``backward`` is
    the sum over this process's samples times ``data.size / n`` for n samples in the global minibatch, since
    gradients are averaged over ``data``.
    """

    def microbatch(self, *, last: bool) -> AbstractContextManager[None]:
        """Context for the forward and backward pass of a microbatch."""
        return nullcontext()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a microbatch's loss to those of the step."""
        self.scaling.overlap = last and self.data.size * self.tensor.size > 1
        loss.backward()  # type: ignore[no-untyped-call]

    def zero_grad(self) -> None:
        """Start a step."""
        self.optimizer.zero_grad()

    def step(self, lr: float, factor: Tensor | None) -> None:
        """Update the weights by ``factor`` (l,) or (1,) times the direction, 1 when None. Collective."""
        self.scaling.factor = factor
        set_rate(self.optimizer, lr)
        self.optimizer.step()

    def gradient_squares(self) -> Tensor:
        """‖G_k‖_F² (l,) before scaling, float64. Collective if gradients are sharded."""
        return gradient_squares(self.shards, self.device)


class FusedStrategy(Strategy):
    """A strategy whose weights fused steps can update in place (:mod:`scaled_sgd.steps.step`)."""

    def velocity(self, k: int) -> Tensor:
        """This process's rows of v_k."""
        assert isinstance(self.optimizer, ScaledSGD)
        return self.optimizer.velocity(self.network.scaled_layers[k - 1].weight)


def set_rate(optimizer: Any, lr: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
