"""Optimizers that depthwise scaling is compared with: torch's own, and normalised SGD."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.core.registry import load
from scaled_sgd.steps import optimizers
from scaled_sgd.steps.closure import loss_of


def adamw(network: HomogeneousMLP, lr: float, **options: Any) -> Optimizer:
    """``torch.optim.AdamW`` of all weights. ``optim.momentum`` is 0 by the rules of the configuration."""
    options.pop("momentum", None)
    return torch.optim.AdamW(network.parameters(), lr, **options)


class NormalizedSGD(Optimizer):
    """v ← μ v + (1 − μ) G and W ← W − η (v / ‖v‖ + λ W) with one norm over all layers (arXiv 2002.03305).

    Args:
        network: the network.
        lr: η.
        momentum: μ; for 0 there is no buffer.
        weight_decay: λ.
    """

    def __init__(
        self, network: HomogeneousMLP, lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(network.parameters(), defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight that has a gradient."""
        loss = loss_of(closure)
        (group,) = self.param_groups
        weights = [weight for weight in group["params"] if weight.grad is not None]
        directions = [self._direction(weight, group["momentum"]) for weight in weights]
        norm = torch.stack([v.norm(dtype=torch.float64) for v in directions]).norm()
        factor = torch.where(norm > 0, -group["lr"] / norm, 0.0)
        for weight, v in zip(weights, directions, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"]).addcmul_(v, factor.to(v.dtype))
        return loss

    def _direction(self, weight: Tensor, momentum: float) -> Tensor:
        gradient = weight.grad
        assert gradient is not None
        if momentum == 0:
            return gradient
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        v: Tensor = state["momentum_buffer"].mul_(momentum).add_(gradient, alpha=1 - momentum)
        return v


def build_by_path(
    path: str, network: HomogeneousMLP, lr: float, *, momentum: float, weight_decay: float, **options: Any
) -> Optimizer:
    """An optimizer by the path of its class. Momentum and weight decay are passed on unless they are 0.

    Raises:
        UserError: there is no such class.
    """
    module, _, name = path.rpartition(".")
    try:
        kind: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"optim.optimizer: {path!r} cannot be imported ({error}); {_ALLOWED}") from None
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise UserError(f"optim.optimizer: {path!r} is no torch.optim.Optimizer; {_ALLOWED}")
    given = {"momentum": momentum, "weight_decay": weight_decay}
    given = {name: value for name, value in given.items() if value}
    make: Callable[..., Optimizer] = kind
    for name, value in given.items():
        if name not in inspect.signature(make).parameters:
            raise UserError(f"optim.{name}: {value!r} is not usable; allowed: 0, since {path} has none")
    return make(network.parameters(), lr=lr, **given, **options)


_ALLOWED = "allowed: a registered name, or the path of a class of optimizers"


def state_of(entry: "optimizers.Optimizer", optim: Any) -> "optimizers.Kept":
    """What an optimizer keeps for each weight, from a step on a tiny network.

    Raises:
        UserError: it cannot be built with these options, or its state cannot be stored.
    """
    network = HomogeneousMLP(3, 2, depth=2, base_width=5)
    optimizer = build(entry, network, optim)
    for weight in network.parameters():
        weight.grad = torch.ones_like(weight)
    try:
        optimizer.step()
    except Exception as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"optim.optimizer: {entry.name!r} takes no step by gradients alone ({text}); {_ALLOWED}"
        ) from error
    tensors: dict[str, str] = {}
    counts: list[str] = []
    for weight in network.parameters():
        for name, value in optimizer.state[weight].items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                tensors[name] = name
            elif isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
                counts.append(name)
            elif value is not None:
                raise UserError(
                    f"optim.optimizer: {entry.name!r} keeps {name!r}, which is neither a number nor of the "
                    f"weight's shape, so that no checkpoint could hold it; {_ALLOWED}"
                )
    return optimizers.Kept(tensors, tuple(dict.fromkeys(counts)), len(tensors))


def build(entry: "optimizers.Optimizer", network: HomogeneousMLP, optim: Any, **scaling: Any) -> Any:
    """The optimizer of a section ``optim.``.

    Raises:
        UserError: it does not take ``optim.options``, or refuses a value.
    """
    options = optim.options if entry.options else {}
    for name in ("lr", "momentum", "weight_decay"):
        if name in options:
            raise UserError(f"optim.options: {name} has a key of its own; allowed: optim.{name}")
    try:
        return load(entry.build)(
            network, optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay, **options, **scaling
        )
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"optim.options: {text}; allowed: arguments of {entry.name}") from error
