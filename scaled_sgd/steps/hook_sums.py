"""Mean squares of forward and backward signals, measured while autograd runs (theory §3).

Each layer's output passes through an identity function that returns the squared norms of its layer as the
"gradient" of a probe tensor. Autograd then does the bookkeeping: probes accumulate over microbatches as
weight gradients do, a forward pass without a backward pass has no effect, and a forward pass recomputed
by activation checkpointing counts once. Sums belong to a gradient: where a backward pass finds that the
gradient of a layer is gone or zero, the layer's sums start anew.
"""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from scaled_sgd.core.errors import UserError
from scaled_sgd.steps.hook_forward import LayerHook, Order
from scaled_sgd.steps.hook_gradients import Gradients
from scaled_sgd.steps.hook_layers import MeasuredLayer
from scaled_sgd.steps.hook_measure import BegunSums, Measure, in_backward, in_functional_transform
from scaled_sgd.steps.statistics import reads_are_free, square_norm


class SignalNorms:
    """Running sums of one step's squared signal norms on this rank, and their global means.

    Attributes:
        layers: the measured layers.
        gradients: the gradients that the sums belong to; None: :meth:`reset` says when they are gone.
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
        self.layers = layers
        self.group = process_group
        self.gradients: Gradients | None = None
        self.grad_scaler = grad_scaler
        self._probes: list[Tensor] = []
        self._passes = [-1] * len(layers)
        self._left: list[tuple[Callable[[], Tensor | None], int]] = [(lambda: None, 0)] * len(layers)
        self._handles: list[RemovableHandle] = []
        self._order = Order(layers)
        self._begun = BegunSums(len(layers))
        self._sums: Tensor | None = None
        self._work: Any = None
        for k in range(len(layers)):
            self._probes.append(self._probe(k, self.device))
        self._place()

    @property
    def device(self) -> torch.device:
        """The current device of the network."""
        return self.layers[0].weight.device

    @property
    def seen(self) -> bool:
        """Whether a backward pass has run since the last reset."""
        return any(probe.grad is not None for probe in self._probes)

    def start(self) -> None:
        """Start measuring with the next forward pass."""
        if not self._handles:
            for k, layer in enumerate(self.layers):
                self._handles.append(LayerHook(layer.module, partial(self.measure, k)).handle)
                # Compiled networks accumulate into weights before probes, others after.
                if layer.weight.requires_grad:
                    handle = layer.weight.register_hook(self._on_accumulation(k))  # type: ignore[no-untyped-call]
                    self._handles.append(handle)
                    after = layer.weight.register_post_accumulate_grad_hook(self._after_accumulation(k))  # type: ignore[no-untyped-call]
                    self._handles.append(after)

    def stop(self) -> None:
        """Stop measuring."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.reset()

    def reset(self) -> None:
        """Start new sums."""
        self._forget_reduced()
        self.overlap = False
        for probe in self._probes:
            probe.grad = None

    def drop_gone(self) -> None:
        """Drop the sums of layers whose gradients are gone."""
        for k, probe in enumerate(self._probes):
            if self.gradients is not None and probe.grad is not None and not self.gradients.exists(k):
                self._forget_reduced()
                probe.grad = None

    def reduce(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """F (l,), D (l,), R () over the global minibatch, and passes (l,), float64 on the device. Collective.

        One all-reduce of 4l numbers. Means are over a layer's own rows: with n_k rows of layer k,
        G_k = Σ ∂L/∂z hᵀ is a mean of rows δ = n_k ∂L/∂z. Where gradients are averaged over W ranks,
        autograd's ∂L/∂z is W times that of the mean.

        Raises:
            UserError: no backward pass has run.
        """
        if self._sums is None:
            self._launch()
        if self._work is not None:
            self._work.wait()
        assert self._sums is not None
        h_squares, delta_squares, n, passes = self._sums.unbind(1)
        # Processes that share a layer see all of h for the same samples, but only a part of δ.
        parts = getattr(self.layers[0].module, "parts", 1)
        if parts > 1:
            h_squares, n = h_squares / parts, n / parts
        n = n.clamp(min=1.0)
        averaged = (dist.get_world_size(self.group) if dist.is_initialized() else 1) / parts
        scale = n if averaged == 1 else n / averaged**2
        if self.grad_scaler is not None and self.grad_scaler.is_enabled():
            loss_scale = self.grad_scaler._scale
            if loss_scale is not None:
                scale = scale / loss_scale.to(scale).square()
        F = self._alpha_squares * h_squares / n
        if self._biases is not None:
            F = F + self._biases
        D = delta_squares * scale
        return F, D, D[-1], passes

    def measure(self, k: int, h: Tensor, z: Tensor) -> Tensor | None:
        """Z of layer k, from its input h, with its norms measured in the backward pass; None: not measured.

        Raises:
            UserError: the layers run in another order, or more than once.
        """
        compiling = torch.compiler.is_compiling()
        if not compiling and in_functional_transform():
            return None
        if not compiling and not in_backward():
            self._order.follow(k, h, self._probes)
        if not torch.is_grad_enabled() or not self.layers[k].weight.requires_grad:
            return None
        h = h.detach()
        if not compiling and self._probes[k].device != h.device:
            self._move(k, h.device)
        rows = h.numel() // max(h.shape[-1], 1)
        probe = self._probes[k]
        short = not compiling and not reads_are_free(h)
        measured = self._begun(k, h, rows, probe.dtype) if short else square_norm(h)
        return cast(Tensor, Measure.apply(z, measured, rows, probe))  # type: ignore[no-untyped-call]

    def _probe(self, k: int, device: torch.device) -> Tensor:
        # Sums that other devices than CPUs complete in place are in the signals' own precision.
        wide = device.type == "cpu" or self.layers[k].weight.dtype == torch.float64
        dtype = torch.float64 if wide else torch.float32
        probe = torch.zeros(4, dtype=dtype, device=device, requires_grad=True)
        probe.register_hook(self._on_accumulation(k))  # type: ignore[no-untyped-call]
        if k == 0:
            probe.register_post_accumulate_grad_hook(self._first_layer_done)  # type: ignore[no-untyped-call]
        return probe

    def _move(self, k: int, device: torch.device) -> None:
        """Move the probe of layer k to where its signals are; that of the first layer takes the constants."""
        old, self._probes[k] = self._probes[k], self._probe(k, device)
        if old.grad is not None and not old.is_meta:
            self._probes[k].grad = old.grad.to(self._probes[k])
        if k == 0:
            self._place()

    def _place(self) -> None:
        """Move the layers' constants to the network's device."""
        biases, alpha, self.omega = (
            torch.tensor(values, dtype=torch.float64, device=self.device)
            for values in (
                [float(layer.has_bias) for layer in self.layers],
                [layer.multiplier for layer in self.layers],
                [layer.layer_weight for layer in self.layers],
            )
        )
        self._alpha_squares = alpha.square()
        self._biases = biases if any(layer.has_bias for layer in self.layers) else None

    def _on_accumulation(self, k: int) -> Callable[[Tensor], None]:
        def before(_gradient: Tensor) -> None:
            """Drop the sums of layer k if its gradient is gone, once in a backward pass."""
            task = torch._C._current_graph_task_id()
            if self._passes[k] == task:
                return
            self._passes[k] = task
            self._forget_reduced()
            probe = self._probes[k]
            if self.gradients is None or probe.grad is None:
                return
            if not self.gradients.exists(k):
                probe.grad = None
                return
            gradient, (left, version) = self.gradients.whole(k), self._left[k]
            # A gradient may be zero by itself: only one that was written since may have been set to zero.
            if gradient is not None and not (left() is gradient and gradient._version == version):
                probe.grad = torch.where(square_norm(gradient) == 0, 0.0, probe.grad)

        return before

    def _after_accumulation(self, k: int) -> Callable[[Tensor], None]:
        def after(weight: Tensor) -> None:
            """Remember the gradient of layer k as the backward pass left it."""
            if weight.grad is not None:
                self._left[k] = weakref.ref(weight.grad), weight.grad._version

        return after

    def _launch(self, *, asynchronous: bool = False) -> None:
        missing = [
            layer.name for layer, probe in zip(self.layers, self._probes, strict=True) if probe.grad is None
        ]
        if missing:
            raise UserError(
                f"model: layer {missing[0]} took no part in a forward and backward pass since the last "
                "step; allowed: every layer once a microbatch"
            )
        device = self._probes[0].device
        self._sums = torch.stack([p.grad.to(device) for p in self._probes if p.grad is not None]).double()
        if dist.is_initialized() and dist.get_world_size(self.group) > 1:
            self._work = dist.all_reduce(self._sums, group=self.group, async_op=asynchronous)

    def _forget_reduced(self) -> None:
        if self._work is not None:
            self._work.wait()
        self._work = self._sums = None

    def _first_layer_done(self, _probe: Tensor) -> None:
        if self.overlap:
            self.overlap = False
            self._launch(asynchronous=True)
