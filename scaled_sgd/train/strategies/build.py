"""From a resolved configuration to the strategy it names."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.optim import Optimizer

from scaled_sgd.config import Config
from scaled_sgd.config.network import network_of
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.core.registry import load
from scaled_sgd.parallel import Ranks
from scaled_sgd.parallel.exchange import choose_factors, measure_link
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning.choice import tensor_processes
from scaled_sgd.steps.hook import DepthwiseScaling
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.train.strategies.base import Strategy
from scaled_sgd.train.strategies.launched import fsdp_plugin, world_of
from scaled_sgd.train.strategies.native import MakeOptimizer, Policy, Replicas, Sharded, Whole

if TYPE_CHECKING:
    from accelerate import Accelerator


def build_strategy(
    config: Config, accelerator: "Accelerator", in_features: int, out_features: int
) -> Strategy:
    """The network of a run, laid out and ready to train. Collective.

    Args:
        config: resolved (:func:`scaled_sgd.train.resolution.resolve`).
        accelerator: the world.
        in_features: m_0.
        out_features: m_l.
    """
    optim, scaling, sharding = config.optim, config.scaling, config.sharding
    name, device = sharding.strategy, accelerator.device

    def make_network(where: torch.device | str) -> HomogeneousMLP:
        return network_of(config, in_features, out_features, device=where)

    entry = OPTIMIZERS[optim.optimizer]

    def make(network: HomogeneousMLP) -> tuple[Optimizer, DepthwiseScaling]:
        build = load(entry.build)
        options = {"momentum": optim.momentum, "weight_decay": optim.weight_decay}
        rule = {"rule": scaling.rule, "static": scaling.static, "grad_scaler": accelerator.scaler}
        if entry.folds:
            folding = build(network, optim.lr, **options, **rule)
            return folding, folding.scaling
        optimizer = build(network, optim.lr, **options)
        return optimizer, DepthwiseScaling(network, optimizer, **rule)

    make_optimizer = MakeOptimizer(make, entry.state)
    if name == "ddp" and optim.update == "fused":
        return Whole(device, make_network, make_optimizer, partial(choose_exchange, config))
    if name == "ddp":
        return Replicas(accelerator, make_network, make_optimizer)
    if (stage := STRATEGIES[name].zero_stage) is not None:
        from scaled_sgd.train.strategies.zero import Zero

        return Zero(
            stage,
            accelerator,
            make_network,
            lambda network: DepthwiseScaling(network, rule=scaling.rule, static=scaling.static),
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
        )
    shares = tensor_processes(sharding, world_of(accelerator))
    if name == "tensor":
        return Sharded(
            name, device, make_network, make_optimizer, tensor_processes=shares, autocast=accelerator.autocast
        )
    return Sharded(
        name,
        device,
        make_network,
        make_optimizer,
        tensor_processes=shares,
        policy=fsdp_policy(config, accelerator),
    )


def choose_exchange(config: Config, network: HomogeneousMLP, ranks: Ranks) -> list[bool]:
    """For each layer, whether its factors move instead of its gradient. Collective."""
    asked, weight = config.sharding.exchange, network.scaled_layers[0].weight
    if asked != "auto":
        return [asked == "factors"] * network.depth
    link = measure_link(ranks, weight.device, weight.dtype)
    return choose_factors(
        network.widths, config.optim.batch_size, ranks.size, link, itemsize=weight.element_size()
    )


def fsdp_policy(config: Config, accelerator: "Accelerator") -> Policy:
    """FSDP2's, from the configuration or from Accelerate's FSDP plugin where that was launched."""
    plugin = fsdp_plugin(accelerator)
    half = torch.bfloat16 if config.run.precision == "bf16" else None
    precision = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    if plugin is None:
        return Policy(precision)
    return Policy(plugin.mixed_precision_policy or precision, reshard=bool(plugin.reshard_after_forward))
