"""Whether the formulas of a :class:`~scaled_sgd.core.network.HomogeneousMLP` hold for what a model runs."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any

from torch import nn

from scaled_sgd.core.network import HomogeneousMLP, ScaledLinear
from scaled_sgd.parallel.layout import unwrap
from scaled_sgd.parallel.tensor_parallel import ColumnParallelLinear

_OWN = ("forward", "uncentered", "_run", "apply_activation", "activation_at")
_LAYERS = (ScaledLinear.forward, ColumnParallelLinear.forward)
_NEUTRAL = ("scaled_sgd.", "torch.distributed.", "deepspeed.", "accelerate.")
"""Packages whose hooks move weights or measure, but keep what a module computes."""


def foreign_part(model: nn.Module) -> str | None:
    """What ``model`` runs beside the formulas, in words; None if it is a HomogeneousMLP, wrapped or not."""
    network = unwrap(model)
    name = type(network).__name__
    if not isinstance(network, HomogeneousMLP):
        return name
    if any(getattr(type(network), own) is not getattr(HomogeneousMLP, own) for own in _OWN):
        return f"{name} with a forward pass of its own"
    # Accelerate's mixed precision puts a context around the forward pass.
    replaced = vars(network).get("_original_forward", vars(network).get("forward"))
    if replaced is not None and getattr(replaced, "__func__", None) is not HomogeneousMLP.forward:
        return f"{name} with another forward pass"
    if len(network.scaled_layers) != network.depth or len(network.layers) != network.depth:
        return f"{name} with other layers"
    for k, layer in enumerate(network.scaled_layers, start=1):
        if "weight" not in layer._parameters:
            return f"{name} whose layer {k} has no weight of its own (parametrized or pruned)"
        if type(layer).forward not in _LAYERS or "forward" in vars(layer):
            return f"{name} whose layer {k} has a forward pass of its own"
    if any(not _is_neutral(hook) for hook in _hooks((network, *network.scaled_layers))):
        return f"{name} with a forward hook"
    return None


def _hooks(modules: Iterable[nn.Module]) -> Iterable[Callable[..., Any]]:
    for module in modules:
        yield from chain(module._forward_pre_hooks.values(), module._forward_hooks.values())


def _is_neutral(hook: Callable[..., Any]) -> bool:
    while isinstance(hook, partial):
        hook = hook.func
    return str(getattr(hook, "__module__", "")).startswith(_NEUTRAL)
