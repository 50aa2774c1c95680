"""Builds the strategy that a resolved configuration names."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from scaled_sgd.config import Config
from scaled_sgd.config.network import network_of
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.core.registry import Registry
from scaled_sgd.parallel import Ranks
from scaled_sgd.parallel.exchange import choose_factors, measure_link
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning.choice import tensor_processes
from scaled_sgd.steps.hook import DepthwiseScaling
from scaled_sgd.steps.rules import RULES
from scaled_sgd.train.strategies.base import Strategy
from scaled_sgd.train.strategies.launched import fsdp_plugin, world_of
from scaled_sgd.train.strategies.native import MakeOptimizer, Policy, Replicas, Sharded, Whole

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Request:
    """The inputs for building a strategy.

    Attributes:
        config: resolved (:func:`scaled_sgd.train.resolution.resolve`).
        accelerator: the world.
        in_features: m_0.
        out_features: m_l.
    """

    config: Config
    accelerator: "Accelerator"
    in_features: int
    out_features: int

    def network(self, where: torch.device | str) -> HomogeneousMLP:
        """The run's network at step 0; without memory on ``meta``."""
        return network_of(self.config, self.in_features, self.out_features, device=where)

    @property
    def optimizer(self) -> MakeOptimizer:
        """Builds the run's optimizer."""
        return MakeOptimizer(self.config, self.accelerator.scaler)


BUILDERS: Registry[Callable[[Request], Strategy]] = Registry("sharding.strategy")
"""Builders of the strategies in :data:`scaled_sgd.parallel.strategies.STRATEGIES`. Collective."""


def build_strategy(request: Request) -> Strategy:
    """The network of a run in its layout, ready to train. Collective."""
    return BUILDERS[request.config.sharding.strategy](request)


def _replicas(request: Request) -> Strategy:
    accelerator, config = request.accelerator, request.config
    name = config.sharding.strategy
    if config.optim.update == "fused":
        choose = partial(choose_exchange, config)
        return Whole(name, accelerator.device, request.network, request.optimizer, choose)
    return Replicas(name, accelerator, request.network, request.optimizer)


def _rows(request: Request) -> Strategy:
    accelerator, sharding = request.accelerator, request.config.sharding
    gathers = STRATEGIES[sharding.strategy].splits_samples
    return Sharded(
        sharding.strategy,
        accelerator.device,
        request.network,
        request.optimizer,
        tensor_processes=tensor_processes(sharding, world_of(accelerator)),
        policy=fsdp_policy(request.config, accelerator) if gathers else None,
        autocast=nullcontext if gathers else accelerator.autocast,
    )


def _zero(request: Request) -> Strategy:
    from scaled_sgd.train.strategies.zero import Zero

    optim, scaling = request.config.optim, request.config.scaling
    name = request.config.sharding.strategy
    stage = STRATEGIES[name].zero_stage
    assert stage is not None
    return Zero(
        name,
        stage,
        request.accelerator,
        request.network,
        lambda network: DepthwiseScaling(network, rule=scaling.rule, static=scaling.static),
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
    )


for _name, _builder in {
    "ddp": _replicas,
    "fsdp2": _rows,
    "tensor": _rows,
    "fsdp2+tensor": _rows,
    "zero1": _zero,
    "zero2": _zero,
    "zero3": _zero,
}.items():
    BUILDERS.add(_name, _builder)


def choose_exchange(config: Config, network: HomogeneousMLP, ranks: Ranks) -> list[bool]:
    """For each layer, whether its factors are exchanged instead of its gradient. Collective."""
    asked, weight = config.sharding.exchange, network.scaled_layers[0].weight
    if not RULES[config.scaling.rule].scalar and asked == "auto":
        return [True] * network.depth
    if asked != "auto":
        return [asked == "factors"] * network.depth
    link = measure_link(ranks, weight.device, weight.dtype)
    size = weight.element_size()
    factor_size = 2 if config.run.precision == "bf16" else size
    return choose_factors(
        network.widths, config.optim.batch, ranks.size, link, itemsize=size, factor_size=factor_size
    )


def fsdp_policy(config: Config, accelerator: "Accelerator") -> Policy:
    """FSDP2's policy, from the configuration or from Accelerate's FSDP plugin if that was launched."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin = fsdp_plugin(accelerator)
    half = torch.bfloat16 if config.run.precision == "bf16" else None
    precision = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    if plugin is None:
        return Policy(precision)
    return Policy(plugin.mixed_precision_policy or precision, reshard=bool(plugin.reshard_after_forward))
