"""Mean squares of forward and backward signals, measured while autograd runs (theory §3).

Each layer's output passes through an identity function that returns the squared norms of its layer as the
"gradient" of a probe tensor. Autograd then does the bookkeeping: probes accumulate over microbatches as
weight gradients do, a forward pass without a backward pass has no effect, and a forward pass recomputed
by activation checkpointing counts once.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import ScaledLinear
from scaled_sgd.parallel import unwrap
from scaled_sgd.steps.statistics import square_norm


@dataclass(frozen=True)
class MeasuredLayer:
    """A trainable linear layer: z_k = α_k h_{k−1} W_kᵀ (+ bias)."""

    name: str
    module: nn.Module
    multiplier: float
    layer_weight: float

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weight and the bias, if any; without frozen ones."""
        return [p for p in self.module.parameters(recurse=False) if p.requires_grad]

    @property
    def has_bias(self) -> bool:
        """Whether a trainable bias adds a feature of value 1 to F_k."""
        bias = getattr(self.module, "bias", None)
        return bias is not None and bool(bias.requires_grad)


def measured_layers(model: nn.Module) -> list[MeasuredLayer]:
    """The trainable linear layers of ``model`` in registration order.

    Raises:
        UserError: there are none, or a trainable parameter lies outside them.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model: {type(model).__name__} does not fit; allowed: a torch.nn.Module")
    layers: list[MeasuredLayer] = []
    owned: set[nn.Parameter] = set()
    for name, module in unwrap(model).named_modules():
        if not isinstance(module, ScaledLinear | nn.Linear) or not module.weight.requires_grad:
            continue
        layer = MeasuredLayer(
            name,
            module,
            float(getattr(module, "multiplier", 1.0)),
            float(getattr(module, "layer_weight", 1.0)),
        )
        shared = owned.intersection(layer.parameters)
        if shared:
            raise UserError(
                f"model: layer {name} shares a weight with another layer; allowed: one layer each"
            )
        layers.append(layer)
        owned.update(layer.parameters)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter not in owned:
            raise UserError(
                f"model: trainable parameter {name} is not in an nn.Linear layer; allowed: nn.Linear "
                "layers applied in order (freeze the rest with requires_grad_(False))"
            )
    if not layers:
        raise UserError("model: no trainable nn.Linear layer; allowed: at least one")
    return layers


class _Measure(torch.autograd.Function):
    """Identity on z; the probe's gradient is (‖h‖², ‖∂L/∂z‖², rows) in float64."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, h_square: Tensor, rows: int, probe: Tensor) -> Tensor:
        ctx.h_square = h_square
        ctx.rows = rows
        if torch.compiler.is_compiling():
            return z.view_as(z)
        # Not a view of z, so that an in-place activation may overwrite it.
        ctx.mark_dirty(z)
        return z

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, None, None, Tensor]:
        h_square: Tensor = ctx.h_square
        rows = torch.full_like(h_square, ctx.rows)
        return delta, None, None, torch.stack((h_square, square_norm(delta), rows))


def _in_backward() -> bool:
    """Whether activation checkpointing is recomputing a forward pass, in any order."""
    return torch._C._current_graph_task_id() != -1


def _in_functional_transform() -> bool:
    """Whether a ``torch.func`` transform is active, whose derivatives are not for the optimizer."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class SignalNorms:
    """Running sums of one step's squared signal norms on this rank, and their global means.

    Attributes:
        overlap: start the all-reduce when the coming backward pass reaches the first layer.
    """

    def __init__(
        self,
        layers: list[MeasuredLayer],
        *,
        process_group: dist.ProcessGroup | None = None,
        grad_scaler: "torch.amp.GradScaler | None" = None,
    ) -> None:
        self.overlap = False
        self._layers = layers
        self.group = process_group
        self._grad_scaler = grad_scaler
        self._probes: list[Tensor] = []
        self._handles: list[RemovableHandle] = []
        self._next_layer = 0
        self._sums: Tensor | None = None
        self._work: Any = None
        self._place()

    @property
    def device(self) -> torch.device:
        """The current device of the network."""
        return self._layers[0].parameters[0].device

    @property
    def seen(self) -> bool:
        """Whether a backward pass has run since the last reset."""
        return self._probes[0].grad is not None

    def start(self) -> None:
        """Start measuring with the next forward pass."""
        if not self._handles:
            for k, layer in enumerate(self._layers):
                hook = layer.module.register_forward_hook(self._hook(k), with_kwargs=True)
                self._handles.append(hook)

    def stop(self) -> None:
        """Stop measuring."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.reset()

    def reset(self) -> None:
        """Start new sums."""
        if self._work is not None:
            self._work.wait()
        self._work = self._sums = None
        self.overlap = False
        for probe in self._probes:
            probe.grad = None

    def reduce(self) -> tuple[Tensor, Tensor, Tensor]:
        """F (l,), D (l,) and R () over the global minibatch, float64 on the device. Collective.

        One all-reduce of 2l + 1 numbers. With rows weighted 1/N each in the loss and gradients averaged
        over W ranks, autograd's signals are δ_i·W/N, whence the factors below.

        Raises:
            UserError: no backward pass has run.
        """
        if self._sums is None:
            self._launch()
        if self._work is not None:
            self._work.wait()
        assert self._sums is not None
        depth = len(self._layers)
        h_squares, delta_squares, n = self._sums[:depth], self._sums[depth : 2 * depth], self._sums[-1]
        # Processes that share a layer see all of h for the same samples, but only a part of δ.
        parts = getattr(self._layers[0].module, "parts", 1)
        h_squares, n = h_squares / parts, (n / parts).clamp(min=1.0)
        averaged = (dist.get_world_size(self.group) if dist.is_initialized() else 1) / parts
        scale = n / averaged**2
        if self._grad_scaler is not None and self._grad_scaler.is_enabled():
            loss_scale = self._grad_scaler._scale
            if loss_scale is not None:
                scale = scale / loss_scale.to(scale).square()
        F = self._alpha.square() * h_squares / n + self._biases
        D = delta_squares * scale
        return F, D, D[-1]

    def _place(self) -> None:
        """Move the probes and the layers' constants to the network's device."""
        device = self.device
        self._probes = [
            torch.zeros(3, dtype=torch.float64, device=device, requires_grad=True) for _ in self._layers
        ]
        self._probes[0].register_post_accumulate_grad_hook(self._first_layer_done)  # type: ignore[no-untyped-call]
        self._biases, self._alpha, self.omega = (
            torch.tensor(values, dtype=torch.float64, device=device)
            for values in (
                [float(layer.has_bias) for layer in self._layers],
                [layer.multiplier for layer in self._layers],
                [layer.layer_weight for layer in self._layers],
            )
        )

    def _launch(self, *, asynchronous: bool = False) -> None:
        missing = [
            layer.name for layer, probe in zip(self._layers, self._probes, strict=True) if probe.grad is None
        ]
        if missing:
            raise UserError(
                f"model: layer {missing[0]} took no part in a forward and backward pass since the last "
                "step; allowed: every layer once a microbatch"
            )
        sums = torch.stack([probe.grad for probe in self._probes if probe.grad is not None])
        self._sums = torch.cat((sums[:, 0], sums[:, 1], sums[:1, 2]))
        if dist.is_initialized() and dist.get_world_size(self.group) > 1:
            self._work = dist.all_reduce(self._sums, group=self.group, async_op=asynchronous)

    def _first_layer_done(self, _probe: Tensor) -> None:
        if self.overlap:
            self.overlap = False
            self._launch(asynchronous=True)

    def _hook(self, k: int) -> Any:
        def measure(
            module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], z: Tensor
        ) -> Tensor | None:
            if module is not self._layers[k].module:
                return None
            if not torch.compiler.is_compiling() and _in_functional_transform():
                return None
            if not torch.compiler.is_compiling() and not _in_backward():
                self._follow(k)
            if not torch.is_grad_enabled():
                return None
            h = (args[0] if args else next(iter(kwargs.values()))).detach()
            if not torch.compiler.is_compiling() and self._probes[k].device != h.device:
                self._place()
            rows = h.numel() // max(h.shape[-1], 1)
            return cast(Tensor, _Measure.apply(z, square_norm(h), rows, self._probes[k]))  # type: ignore[no-untyped-call]

        return measure

    def _follow(self, k: int) -> None:
        """Refuse layers that are applied in another order than they were registered in."""
        if torch.is_grad_enabled() and k not in (0, self._next_layer):
            expected = self._layers[self._next_layer % len(self._layers)].name
            raise UserError(
                f"model: layer {self._layers[k].name} ran where {expected} was expected; allowed: "
                "linear layers applied once each, in registration order"
            )
        self._next_layer = k + 1
