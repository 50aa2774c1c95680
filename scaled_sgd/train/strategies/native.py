"""Strategies built on torch: DistributedDataParallel, FSDP2, tensor parallelism, and both combined."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

from scaled_sgd.config import Config
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.parallel import Ranks
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.parallel.tensor_parallel import parallelize
from scaled_sgd.steps import optimizers
from scaled_sgd.steps.hook import DepthwiseScaling
from scaled_sgd.steps.optimizer import ScaledSGD
from scaled_sgd.steps.peers import build
from scaled_sgd.steps.rules import RULES
from scaled_sgd.train.strategies.base import FusedStrategy, GradientStrategy, set_rate
from scaled_sgd.train.strategies.shards import RowShard, initial_values

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.distributed.fsdp import MixedPrecisionPolicy

MakeNetwork = Callable[[torch.device | str], HomogeneousMLP]
"""Makes the run's network on a device; without memory on ``meta``."""


@dataclass(frozen=True)
class MakeOptimizer:
    """Builds a run's optimizer, and the scaling of its gradients.

    Attributes:
        config: resolved.
        grad_scaler: the ``torch.amp.GradScaler`` in use, if any.
    """

    config: Config
    grad_scaler: "torch.amp.GradScaler | None" = None

    @property
    def kept(self) -> Mapping[str, str]:
        """Maps checkpoint names of tensors of a weight's size to their names in the optimizer's state."""
        return self._entry.kept(self.config.optim).tensors

    def __call__(self, network: HomogeneousMLP) -> tuple[Optimizer, DepthwiseScaling]:
        """The optimizer and the scaling of ``network``.

        Raises:
            UserError: the optimizer does not take its options, or is registered with ``fused`` by mistake.
        """
        optim, scaling, entry = self.config.optim, self.config.scaling, self._entry
        rule: dict[str, Any] = {
            "rule": scaling.rule,
            "static": scaling.static,
            "grad_scaler": self.grad_scaler,
        }
        if RULES[scaling.rule].polar:
            rule["polar"] = scaling.settings
        optimizer = build(entry, network, optim, **(rule if entry.folds else {}))
        if optim.update == "fused" and not isinstance(optimizer, ScaledSGD):
            raise UserError(
                f"optim.optimizer: {optim.optimizer!r} is registered with fused=True but builds a "
                f"{type(optimizer).__name__}; allowed: a ScaledSGD, or fused=False"
            )
        scaling_of = optimizer.scaling if entry.folds else DepthwiseScaling(network, optimizer, **rule)
        return optimizer, scaling_of

    @property
    def _entry(self) -> "optimizers.Optimizer":
        return optimizers.OPTIMIZERS[self.config.optim.optimizer]


class Replicas(GradientStrategy):
    """``ddp``: every process holds all weights; gradients are averaged during the backward pass."""

    def __init__(
        self, name: str, accelerator: "Accelerator", make_network: MakeNetwork, make_optimizer: MakeOptimizer
    ) -> None:
        self.name = name
        self._accelerator = accelerator
        self.network = make_network(accelerator.device)
        self.kept = make_optimizer.kept
        self.optimizer, self.scaling = make_optimizer(self.network)
        self.module: nn.Module = accelerator.prepare(self.network)
        self._optimizer: Any = accelerator.prepare(self.optimizer)
        self.data, self.tensor = Ranks(), Ranks.alone()
        if self.data.size > 1:
            self._settle_buckets()
        weights = enumerate(self.network.scaled_layers, start=1)
        self.shards = [
            RowShard(k, layer.weight, self.optimizer, self.kept, copies=self.data.size)
            for k, layer in weights
        ]

    def _settle_buckets(self) -> None:
        """Dummy backward pass: DDP changes its order of summation after the first backward pass.

        Without it the first step of a resumed run would differ from the same step of an uninterrupted run.
        """
        first = self.network.scaled_layers[0].weight
        x = torch.zeros(1, self.network.widths[0], dtype=first.dtype, device=first.device)
        (self.module(x).sum() * 0).backward()
        self._optimizer.zero_grad()

    def microbatch(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged with the last microbatch."""
        return nullcontext() if last else self._accelerator.no_sync(self.module)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a microbatch's loss to those of the step."""
        self.scaling.overlap = last and self.data.size > 1
        self._accelerator.backward(loss)

    def zero_grad(self) -> None:
        """Start a step."""
        self._optimizer.zero_grad()

    def gradient_squares(self) -> Tensor:
        """‖G_k‖_F² (l,) without the loss scale."""
        self._accelerator.unscale_gradients()
        return super().gradient_squares()

    def step(self, lr: float, factor: Tensor | None) -> None:
        """Step through Accelerate's wrapper, which may skip a step whose gradients overflowed."""
        self.scaling.factor = factor
        set_rate(self._optimizer, lr)
        self._optimizer.step()


class Whole(FusedStrategy):
    """``ddp`` with fused steps: every process holds all weights, and no gradients.

    Args:
        name: its name in ``sharding.strategy``.
        device: this process's device.
        make_network: makes the network.
        make_optimizer: makes its optimizer.
        choose: decides for each layer, on several processes, whether to exchange factors or gradients.
    """

    def __init__(
        self,
        name: str,
        device: torch.device,
        make_network: MakeNetwork,
        make_optimizer: MakeOptimizer,
        choose: Callable[[HomogeneousMLP, Ranks], Sequence[bool]],
    ) -> None:
        self.name = name
        self.network = self.module = make_network(device)
        self.kept = make_optimizer.kept
        self.optimizer, self.scaling = make_optimizer(self.network)
        self.data, self.tensor = Ranks(), Ranks.alone()
        if self.data.size > 1:
            self.exchange = choose(self.network, self.data)
        weights = enumerate(self.network.scaled_layers, start=1)
        self.shards = [
            RowShard(k, layer.weight, self.optimizer, self.kept, copies=self.data.size)
            for k, layer in weights
        ]


@dataclass(frozen=True)
class Policy:
    """Settings of FSDP2 for a layer.

    Attributes:
        precision: precision of forward and backward passes; weights and updates keep their own.
        reshard: free the gathered weights of a layer between forward and backward pass.
    """

    precision: "MixedPrecisionPolicy"
    reshard: bool = True


class Sharded(GradientStrategy, FusedStrategy):
    """``fsdp2``, ``tensor`` and ``fsdp2+tensor``: every process holds some rows of each weight.

    Weights are initialised in place from the seed, so no process ever holds the full network. Gradients of
    every microbatch are reduced over processes immediately, which saves memory at the price of traffic.

    Args:
        name: its name in ``sharding.strategy``.
        device: this process's device.
        make_network: makes the network.
        make_optimizer: makes its optimizer.
        tensor_processes: number of neighbouring processes that share each layer; 1 with ``fsdp2``.
        policy: policy of FSDP2; None: tensor parallelism only.
        autocast: autocast context of the forward pass.
    """

    def __init__(
        self,
        name: str,
        device: torch.device,
        make_network: MakeNetwork,
        make_optimizer: MakeOptimizer,
        *,
        tensor_processes: int,
        policy: Policy | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.name = name
        self._autocast = autocast
        world = start_world(device)
        # One-dimensional if possible: in a second dimension of size 1 each process would be a separate group.
        can = STRATEGIES[name]
        parallel = can.shares_layers or not can.splits_samples
        sizes = {"data": world // tensor_processes, "tensor": tensor_processes}
        if policy is None:
            del sizes["data"]
        elif not parallel:
            del sizes["tensor"]
        mesh = init_device_mesh(device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        self.data, self.tensor = (
            Ranks(mesh[axis].get_group()) if axis in sizes else Ranks.alone() for axis in ("data", "tensor")
        )
        self.network = self.module = make_network("meta")
        if parallel:
            parallelize(self.network, mesh["tensor"])
        if policy is not None:
            shard(self.network, mesh["data"], policy)
        self.network.to_empty(device=device)
        self.kept = make_optimizer.kept
        self.optimizer, self.scaling = make_optimizer(self.network)
        self.shards = []
        for k, layer in enumerate(self.network.scaled_layers, start=1):
            self.shards.append(RowShard(k, layer.weight, self.optimizer, self.kept, copies=1))
            self.shards[-1].fill("weight", initial_values(self.network, k))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs f (n, m_l) of this process's samples, at least float32."""
        with self._autocast():
            f = super().forward(x)
        return f.float() if f.dtype == torch.bfloat16 else f


def shard(network: HomogeneousMLP, mesh: DeviceMesh, policy: Policy) -> None:
    """Apply FSDP2 over ``mesh`` layer by layer, so that one layer's weights are gathered at a time."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    precision = policy.precision
    for layer in network.layers:
        fully_shard(
            layer,
            mesh=mesh,
            reshard_after_forward=policy.reshard,
            mp_policy=precision,
        )
    whole = MixedPrecisionPolicy(
        param_dtype=precision.param_dtype, reduce_dtype=precision.reduce_dtype, output_dtype=torch.float32
    )
    fully_shard(
        network,
        mesh=mesh,
        mp_policy=precision if precision.param_dtype is None else whole,
    )


def start_world(device: torch.device) -> int:
    """Number of processes; a single process without a group gets one, since meshes need it."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    return dist.get_world_size()
