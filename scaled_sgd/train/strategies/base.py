"""What the training loop knows of the strategy it trains with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.parallel import Partition, Ranks
from scaled_sgd.steps.hook import DepthwiseScaling
from scaled_sgd.steps.optimizer import ScaledSGD
from scaled_sgd.train.strategies.shards import Shard, gradient_squares, momentum_rows


class Strategy(ABC):
    """A network laid out over the processes.

    Attributes:
        name: as ``sharding.strategy`` has it.
        network: the network itself, whose weights may be in parts.
        module: what to call: the network in its wrapping.
        scaling: measures the signals of a step and gives ξ.
        shards: what this process holds, one a layer.
        data: the processes that train on different samples of a minibatch.
        tensor: the processes that work together on the same samples.
        optimizer: keeps what outlives a step; never steps itself under fused steps.
        kept: what checkpoints call its tensors of a weight's size: their names in its state.
        exchange: for each layer, whether fused steps move its factors instead of its gradient; None where
            neither moves, or not by choice.
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
        """Outputs f (n, m_l) of this process's samples. Collective where weights are in parts."""
        f: Tensor = self.module(x)
        return f

    def velocity_rows(self, partition: Partition) -> Callable[[int], Tensor | None]:
        """v_k before a step: this process's rows of it, None where it is still zero. Collective."""
        return momentum_rows(self.shards, partition)

    @property
    def device(self) -> torch.device:
        """Where losses are."""
        return self.scaling.scales.device


class GradientStrategy(Strategy):
    """A strategy that trains by autograd.

    A step is: :meth:`zero_grad`; for each microbatch :meth:`forward` and :meth:`backward` within
    :meth:`microbatch`; perhaps :meth:`gradient_squares`; :meth:`step`. Losses are given to ``backward``
    summed over this process's samples and multiplied by ``data.size / n``, n being the samples of the global
    minibatch: gradients are averaged over ``data``.
    """

    def microbatch(self, *, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward pass of a microbatch."""
        return nullcontext()

    @abstractmethod
    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a microbatch's loss to those of the step."""

    @abstractmethod
    def zero_grad(self) -> None:
        """Start a step."""

    @abstractmethod
    def step(self, lr: float, factor: Tensor | None) -> None:
        """Update the weights by ``factor`` () times the direction, 1 when None. Collective."""

    def gradient_squares(self) -> Tensor:
        """‖G_k‖_F² (l,) before scaling, float64. Collective where gradients are in parts."""
        return gradient_squares(self.shards, self.device)


class FusedStrategy(Strategy):
    """A strategy whose weights lie where fused steps can update them (:mod:`scaled_sgd.steps.step`)."""

    def velocity(self, k: int) -> Tensor:
        """v_k, this process's rows of it."""
        assert isinstance(self.optimizer, ScaledSGD)
        return self.optimizer.velocity(self.network.scaled_layers[k - 1].weight)
