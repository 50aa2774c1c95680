"""SGD with depthwise gradient scaling folded into the update."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.numbers import check_number
from scaled_sgd.parallel import local_shard
from scaled_sgd.steps.closure import loss_of
from scaled_sgd.steps.hook import DepthwiseScaling
from scaled_sgd.steps.polynomials import POLAR, Polar
from scaled_sgd.steps.update import Number, Update, add_scaled, keep_scaled


class ScaledSGD(Optimizer):
    """W_k ← W_k − η v_k with v_k ← μ v_k + ξ_k G_k + λ W_k (theory §3).

    The same numbers as ``torch.optim.SGD`` with :class:`~scaled_sgd.steps.hook.DepthwiseScaling` attached,
    but without the extra pass over the gradients, and without waiting for the device.

    Args:
        model: a model that :class:`~scaled_sgd.steps.hook.DepthwiseScaling` accepts.
        lr: η.
        rule: scaling rule.
        static: keep the first step's scales.
        polar: how ``spectral`` equalises singular values; its steps overwrite the gradients.
        momentum: μ; for 0 there is no buffer.
        weight_decay: λ, not scaled by ξ.
        process_group: the ranks that share the global minibatch.
        grad_scaler: a ``torch.amp.GradScaler`` in use.

    Raises:
        UserError: a negative or non-finite number, an unknown rule, or a model that does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        rule: str = "norm",
        static: bool = False,
        polar: Polar = POLAR,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        process_group: dist.ProcessGroup | None = None,
        grad_scaler: "torch.amp.GradScaler | None" = None,
    ) -> None:
        check_number("lr", lr)
        check_number("momentum", momentum, below=1)
        check_number("weight_decay", weight_decay)
        self.scaling = DepthwiseScaling(
            model,
            rule=rule,
            static=static,
            polar=polar,
            process_group=process_group,
            grad_scaler=grad_scaler,
        )
        placed = [(k, p) for k, layer in enumerate(self.scaling.layers) for p in layer.parameters]
        self._layer_of = [k for k, _ in placed]
        super().__init__(
            [p for _, p in placed], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )
        self.scaling.belong_to(self)

    @property
    def scales(self) -> Tensor:
        """ξ of the last step, shape (l,)."""
        return self.scaling.scales

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight that has a gradient. Collective."""
        loss = loss_of(closure)
        scales = self.scaling.update()
        # A number on a CPU, else a tensor (), so that nothing waits.
        numbers: list[Number] = scales.tolist() if scales.device.type == "cpu" else list(scales.unbind())
        group = self.param_groups[0]
        trained = group["params"]
        update = Update(
            group["lr"], group["weight_decay"], group["momentum"], lambda i: self.velocity(trained[i])
        )
        for i, (parameter, k) in enumerate(zip(trained, self._layer_of, strict=True)):
            if parameter.grad is None:
                continue
            add = partial(_add_gradient, local_shard(parameter.grad), numbers[k])
            update.apply(i, local_shard(parameter), add)
        if "scale" not in self.state[trained[0]]:
            # torch.distributed.checkpoint reads from here which values a state has.
            for parameter in trained:
                self.state[parameter]["scale"] = torch.zeros((), dtype=torch.float64)
        return loss

    def velocity(self, parameter: nn.Parameter) -> Tensor:
        """This process's part of v_k, which is zero before the first step."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return local_shard(state["momentum_buffer"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients and the sums behind the scales."""
        _untraced(super().zero_grad)(set_to_none)
        self.scaling.reset()

    def state_dict(self) -> dict[str, Any]:
        """The state of ``torch.optim.Optimizer``, with that of the scaling under ``"scaling"``.

        Each parameter's state has its ξ as ``"scale"`` too, 0 before the first step, since
        ``torch.distributed.checkpoint`` keeps only what belongs to a parameter.
        """
        state, scaling = _untraced(super().state_dict)(), self.scaling.state_dict()
        scales = scaling["scales"]
        if scales is None:
            scales = torch.zeros(len(self.scaling.layers), dtype=torch.float64)
        kept = {i: {**state["state"].get(i, {}), "scale": scales[k]} for i, k in enumerate(self._layer_of)}
        return {**state, "state": kept, "scaling": scaling}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        Raises:
            UserError: the state belongs to another kind of optimizer, rule or network.
        """
        state = dict(state_dict)
        kept: dict[Any, dict[str, Any]] = {key: dict(own) for key, own in state.get("state", {}).items()}
        found = {key: own.pop("scale", None) for key, own in kept.items()}
        scaling = state.pop("scaling", None)
        if scaling is None:
            scaling = self.scaling.state_dict() | {"scales": self._scales_of(found, state)}
        self.scaling.load_state_dict(scaling)
        if kept:
            state["state"] = {key: own for key, own in kept.items() if own}
        try:
            _untraced(super().load_state_dict)(state)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"state_dict: {error}; allowed: the state of a ScaledSGD of the same network"
            ) from error

    def _scales_of(self, found: dict[Any, Any], state: dict[str, Any]) -> Tensor | None:
        """ξ (l,) from the ``"scale"`` of every parameter; None before the first step."""
        keys = [key for group in state.get("param_groups", ()) for key in group["params"]]
        given = {k: found[key] for key, k in zip(keys, self._layer_of, strict=False) if key in found}
        if not given.keys() >= set(self._layer_of) or None in given.values():
            raise UserError("state_dict: it has no 'scaling'; allowed: the state of a ScaledSGD")
        scales = torch.tensor([float(given[k]) for k in sorted(given)], dtype=torch.float64)
        return scales if scales.any() else None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "scaling": self.scaling, "_layer_of": self._layer_of}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the only group, which holds all scaled layers.

        Raises:
            UserError: a second group.
        """
        if self.param_groups:
            raise UserError("param_groups: ScaledSGD trains its model's layers as one group; allowed: one")
        _untraced(super().add_param_group)(param_group)


def _untraced(method: Any) -> Any:
    """A method of ``Optimizer`` without its decorator, if nothing has imported torch.compile yet.

    The decorator keeps torch.compile out of the method, and imports it for that, which takes seconds.
    """
    if "torch._dynamo" in sys.modules:
        return method
    return partial(getattr(method.__func__, "__wrapped__", method.__func__), method.__self__)


def _add_gradient(G: Tensor, xi: Number, target: Tensor, *, keep: Number, factor: Number) -> None:
    """Target ← keep · target + factor · ξ G."""
    add_scaled(keep_scaled(target, keep), G, xi * factor)
