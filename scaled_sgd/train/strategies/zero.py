"""ZeRO-1, 2 and 3: DeepSpeed holds optimizer state, gradients and weights in flat partitions.

The master weights are float32 for any precision of the network. DeepSpeed averages gradients into its
partitions; ξ and clipping multiply those in place, without communication of a weight's size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.parallel import Ranks
from scaled_sgd.steps.hook import DepthwiseScaling
from scaled_sgd.train.strategies import zero_parts
from scaled_sgd.train.strategies.base import GradientStrategy
from scaled_sgd.train.strategies.native import MakeNetwork
from scaled_sgd.train.strategies.shards import Kind, Read, copy_range, initial_values

if TYPE_CHECKING:
    from accelerate import Accelerator

MOMENTUM = "momentum_buffer"


class FragmentShard:
    """ZeRO-1 and 2: every process has all weights, and master and momentum of a flat part of them.

    A layer outside this process's part has no elements in its shard.
    """

    def __init__(self, k: int, weight: Any, engine: Any, *, momentum: bool) -> None:
        self.k, self.copies = k, 1
        self._has_momentum = momentum
        self.shape = (weight.shape[0], weight.shape[1])
        self._weight, self._mapping = weight, weight._hp_mapping
        self.start = self.stop = 0
        if self._mapping is not None:
            own, master = self._mapping.lp_fragment_address, self._mapping.hp_fragment_address
            self.start, self.stop = own.start, own.start + own.numel
            self._slice = slice(master.start, master.start + master.numel)
            group = self._mapping.param_group_index
            self._master = engine.optimizer.single_partition_of_fp32_groups[group]
            self._state = engine.optimizer.optimizer.state[self._master]

    def values(self, kind: Kind) -> Tensor | None:
        """The master weights or an optimizer tensor as a flat view."""
        if kind == "momentum" and not self._has_momentum:
            return None
        if self._mapping is None:
            return torch.empty(0, device=self._weight.device)
        held: Tensor = self._master.detach() if kind == "weight" else self._state[MOMENTUM]
        return held[self._slice]

    def gradient(self) -> Tensor | None:
        """The flat gradient."""
        if self._mapping is None:
            return None
        held: Tensor = self._mapping.get_lp_grad_fragment(self._weight._index_in_param_group)
        return held.detach().view(-1)

    def scale_gradient(self, factor: Tensor) -> None:
        """Multiply the gradient by ``factor`` ()."""
        gradient = self.gradient()
        if gradient is not None:
            gradient.copy_(gradient.float() * factor.float())

    def fill(self, kind: Kind, read: Read) -> None:
        """Replace the elements by those from ``read``; updates the working copy of the weights too."""
        if self._mapping is not None:
            held = self.values(kind)
            assert held is not None
            copy_range(held, self.start, read)
        if kind == "weight":
            copy_range(self._weight.detach().view(-1), 0, read)


class PartitionShard:
    """ZeRO-3: an even flat part of every weight, with its master and momentum."""

    def __init__(self, k: int, weight: Any, *, momentum: bool) -> None:
        self.k, self.copies = k, 1
        self._has_momentum = momentum
        self.shape = (int(weight.ds_shape[0]), int(weight.ds_shape[1]))
        self._weight = weight
        size, total, rank = weight.ds_tensor.ds_numel, int(weight.ds_numel), dist.get_rank()
        self.start, self.stop = min(rank * size, total), min((rank + 1) * size, total)

    def values(self, kind: Kind) -> Tensor | None:
        """The master weights or an optimizer tensor as a flat view."""
        if kind == "momentum" and not self._has_momentum:
            return None
        return self._own(zero_parts.partition(self._weight, None if kind == "weight" else MOMENTUM))

    def gradient(self) -> Tensor | None:
        """The flat gradient."""
        return self._own(zero_parts.gradient_partition(self._weight))

    def scale_gradient(self, factor: Tensor) -> None:
        """Multiply the gradient by ``factor`` ()."""
        gradient = zero_parts.gradient_partition(self._weight)
        zero_parts.put_gradient(self._weight, gradient * factor.to(gradient.dtype))

    def fill(self, kind: Kind, read: Read) -> None:
        """Replace the elements by those from ``read``; updates the working copy of the weights too."""
        held = self.values(kind)
        assert held is not None
        copy_range(held, self.start, read)
        if kind == "weight":
            self._own(self._weight.ds_tensor.detach().view(-1)).copy_(held)

    def _own(self, padded: Tensor) -> Tensor:
        return padded[: self.stop - self.start]


class Zero(GradientStrategy):
    """``zero1``, ``zero2`` and ``zero3``, through the DeepSpeed engine that Accelerate makes.

    Args:
        name: its name in ``sharding.strategy``.
        stage: 1, 2 or 3.
        accelerator: an accelerator whose DeepSpeed plugin has that stage.
        make_network: makes the network with float32 weights.
        make_scaling: makes its scaling.
        momentum: μ.
        weight_decay: λ.
    """

    def __init__(
        self,
        name: str,
        stage: int,
        accelerator: "Accelerator",
        make_network: MakeNetwork,
        make_scaling: Callable[[HomogeneousMLP], DepthwiseScaling],
        *,
        momentum: float,
        weight_decay: float,
    ) -> None:
        self.name = name
        plugin = accelerator.deepspeed_plugin
        assert plugin is not None
        half = plugin.deepspeed_config["bf16"]["enabled"]
        self._working = torch.bfloat16 if half else torch.float32
        self.network = make_network("meta" if stage == 3 else accelerator.device)
        if stage == 3:
            for layer in self.network.scaled_layers:
                layer.to(self._working).to_empty(device=accelerator.device)
                zero_parts.cut_up(layer, plugin.deepspeed_config)
        self.scaling = make_scaling(self.network)
        # DeepSpeed creates the states by steps of its own, which must not change the weights.
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.0, momentum=momentum)
        self.optimizer, self.kept = optimizer, {"momentum": MOMENTUM}
        self.module, self._optimizer = accelerator.prepare(self.network, optimizer)
        self._engine: Any = self.module
        self._weight_decay = weight_decay
        self.data, self.tensor = Ranks(), Ranks.alone()
        self.shards = self._parts = _shards(stage, self.network, self._engine, momentum=momentum > 0)
        if momentum:
            self._start_momentum(stage)
        # Masters are copied from the working weights, which bfloat16 has rounded.
        for shard in self.shards:
            shard.fill("weight", initial_values(self.network, shard.k))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs f (n, m_l) of this process's samples, float32."""
        return super().forward(x.to(self._working)).float()

    @contextmanager
    def _boundary(self, last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(is_boundary=last)
        yield

    def microbatch(self, *, last: bool) -> AbstractContextManager[None]:
        """Let DeepSpeed finish its averaging with the last microbatch."""
        return self._boundary(last)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a microbatch's loss to those of the step."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def zero_grad(self) -> None:
        """No-op: DeepSpeed clears its gradients at the step."""

    def step(self, lr: float, factor: Tensor | None) -> None:
        """Scale this process's part of the gradients and let the engine step."""
        self.scaling.factor = factor
        scales = self.scaling.update()
        if self.scaling.rule != "none" or factor is not None:
            for shard, xi in zip(self._parts, scales, strict=True):
                shard.scale_gradient(xi)
        for group in self._engine.optimizer.param_groups:
            group["lr"], group["weight_decay"] = lr, self._weight_decay
        self._engine.step()

    def _start_momentum(self, stage: int) -> None:
        """Create zero momentum for reading a checkpoint; the optimizer creates it only in its first step."""
        inner = self._engine.optimizer
        parts = inner.fp32_partitioned_groups_flat if stage == 3 else inner.single_partition_of_fp32_groups
        for part in parts:
            inner.optimizer.state[part][MOMENTUM] = torch.zeros_like(part)


def _shards(
    stage: int, network: HomogeneousMLP, engine: Any, *, momentum: bool
) -> "Sequence[FragmentShard | PartitionShard]":
    weights = enumerate((layer.weight for layer in network.scaled_layers), start=1)
    if stage == 3:
        return [PartitionShard(k, weight, momentum=momentum) for k, weight in weights]
    return [FragmentShard(k, weight, engine, momentum=momentum) for k, weight in weights]
