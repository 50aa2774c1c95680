"""Mean squares of forward and backward signals, measured while autograd runs (theory §3).

Each layer's output passes through a function that is the identity and sends, as the "gradient" of a
probe tensor, the squared norms that its layer needs. Autograd then does the bookkeeping: probes
accumulate over microbatches as weight gradients do, a forward pass without a backward pass leaves no
trace, and a forward pass recomputed by activation checkpointing counts once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from scaled_sgd.errors import UserError
from scaled_sgd.model import ScaledLinear


@dataclass(frozen=True)
class MeasuredLayer:
    """A trainable linear layer: z_k = α_k h_{k−1} W_kᵀ (+ bias)."""

    name: str
    module: nn.Module
    multiplier: float
    layer_weight: float

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Weight, then the bias if there is one; frozen ones left out."""
        return [p for p in self.module.parameters(recurse=False) if p.requires_grad]

    @property
    def has_bias(self) -> bool:
        """Whether F_k has one more feature, of value 1."""
        return getattr(self.module, "bias", None) is not None


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel and ``torch.compile`` wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def measured_layers(model: nn.Module) -> list[MeasuredLayer]:
    """The trainable linear layers of ``model`` in registration order.

    Raises:
        UserError: there are none, or a trainable parameter lies outside them.
    """
    layers: list[MeasuredLayer] = []
    owned: set[nn.Parameter] = set()
    for name, module in unwrapped(model).named_modules():
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
                f"model: trainable parameter {name} is not in an nn.Linear layer; depthwise scaling "
                "allows nn.Linear layers applied in order (freeze the rest with requires_grad_(False))"
            )
    if not layers:
        raise UserError("model: no trainable nn.Linear layer; depthwise scaling needs at least one")
    return layers


class _Measure(torch.autograd.Function):
    """Identity on z; the probe's gradient is (‖h‖², ‖∂L/∂z‖², rows)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, h_norm: Tensor, rows: int, probe: Tensor) -> Tensor:
        ctx.h_norm = h_norm
        ctx.rows = rows
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, None, None, Tensor]:
        h_norm: Tensor = ctx.h_norm
        delta_norm = torch.linalg.vector_norm(delta, dtype=h_norm.dtype)
        root_rows = torch.full_like(h_norm, math.sqrt(ctx.rows))
        return delta, None, None, torch.stack((h_norm, delta_norm, root_rows)).square_()


def _in_backward() -> bool:
    """Whether activation checkpointing is running a forward pass again, in whatever order it needs."""
    return torch._C._current_graph_task_id() != -1


class SignalNorms:
    """Running sums of one step's squared signal norms on this rank, and their global means."""

    def __init__(
        self,
        layers: list[MeasuredLayer],
        *,
        process_group: dist.ProcessGroup | None = None,
        grad_scaler: "torch.amp.GradScaler | None" = None,
    ) -> None:
        weights = [layer.parameters[0] for layer in layers]
        self.device = weights[0].device
        self.overlap = False
        self._layers = layers
        self._group = process_group
        self._grad_scaler = grad_scaler
        self._probes: list[Tensor] = []
        for weight in weights:
            dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
            self._probes.append(torch.zeros(3, dtype=dtype, device=self.device, requires_grad=True))
        self._probes[0].register_post_accumulate_grad_hook(self._first_layer_done)  # type: ignore[no-untyped-call]
        self._biases = torch.tensor([float(layer.has_bias) for layer in layers], dtype=torch.float64)
        self._alpha = torch.tensor([layer.multiplier for layer in layers], dtype=torch.float64)
        self._omega = torch.tensor([layer.layer_weight for layer in layers], dtype=torch.float64)
        self._handles: list[RemovableHandle] = []
        self._next_layer = 0
        self._sums: Tensor | None = None
        self._work: Any = None

    @property
    def seen(self) -> bool:
        """Whether a backward pass has run since the last reset."""
        return self._probes[0].grad is not None

    def start(self) -> None:
        """Measure from the next forward pass on."""
        if not self._handles:
            self._handles = list(self._register())

    def stop(self) -> None:
        """Measure nothing any more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.reset()

    def reset(self) -> None:
        """Start new sums."""
        if self._work is not None:
            self._work.wait()
        self._work = self._sums = None
        for probe in self._probes:
            probe.grad = None

    def reduce(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """F (l,), D (l,), R () over the global minibatch and ω (l,), float64 on the device. Collective.

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
        n = n.clamp(min=1.0)
        world_size = dist.get_world_size(self._group) if dist.is_initialized() else 1
        scale = n / world_size**2
        if self._grad_scaler is not None and self._grad_scaler.is_enabled():
            loss_scale = self._grad_scaler._scale
            if loss_scale is not None:
                scale = scale / loss_scale.to(scale).square()
        alpha, omega, biases = (
            values.to(self.device, non_blocking=True) for values in (self._alpha, self._omega, self._biases)
        )
        F = alpha.square() * h_squares / n + biases
        D = delta_squares * scale
        return F, D, D[-1], omega

    def _launch(self, *, asynchronous: bool = False) -> None:
        missing = [
            layer.name for layer, probe in zip(self._layers, self._probes, strict=True) if probe.grad is None
        ]
        if missing:
            raise UserError(
                f"model: layer {missing[0]} took no part in a forward and backward pass since the last "
                "step; depthwise scaling needs every layer once a microbatch"
            )
        sums = torch.stack([probe.grad.double() for probe in self._probes if probe.grad is not None])
        self._sums = torch.cat((sums[:, 0], sums[:, 1], sums[:1, 2]))
        if dist.is_initialized() and dist.get_world_size(self._group) > 1:
            self._work = dist.all_reduce(self._sums, group=self._group, async_op=asynchronous)

    def _first_layer_done(self, _probe: Tensor) -> None:
        if self.overlap:
            self.overlap = False
            self._launch(asynchronous=True)

    def _register(self) -> Iterator[RemovableHandle]:
        for k, (layer, probe) in enumerate(zip(self._layers, self._probes, strict=True)):
            yield layer.module.register_forward_hook(self._hook(k, probe))

    def _hook(self, k: int, probe: Tensor) -> Any:
        def measure(module: nn.Module, args: tuple[Tensor, ...], z: Tensor) -> Tensor | None:
            if not torch.compiler.is_compiling() and not _in_backward():
                self._check_order(k)
            if not torch.is_grad_enabled():
                return None
            h = args[0].detach()
            h_norm = torch.linalg.vector_norm(h, dtype=probe.dtype)
            rows = h.numel() // max(h.shape[-1], 1)
            return cast(Tensor, _Measure.apply(z, h_norm, rows, probe))  # type: ignore[no-untyped-call]

        return measure

    def _check_order(self, k: int) -> None:
        if k not in (0, self._next_layer):
            expected = self._layers[self._next_layer % len(self._layers)].name
            raise UserError(
                f"model: layer {self._layers[k].name} ran where {expected} was expected; depthwise "
                "scaling needs linear layers applied once each, in registration order"
            )
        self._next_layer = k + 1
