"""Depthwise gradient scaling: W_k ← W_k − η ξ_k G_k with one factor ξ_k per layer and step (theory §3).

:class:`DepthwiseScaling` measures the mean squares for the :mod:`~scaled_sgd.steps.rules` while autograd
runs and scales the gradients just before the step of any optimizer;
:class:`scaled_sgd.steps.optimizer.ScaledSGD` folds the factor into the update.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import is_sharded, local_shard
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.hook_gradients import joined_shape, replace_gradients, smaller_side
from scaled_sgd.steps.hook_sums import MeasuredLayer, SignalNorms, measured_layers
from scaled_sgd.steps.polynomials import POLAR, Polar
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.statistics import Statistics, square_norm


class DepthwiseScaling:
    """Measures a step's signals and multiplies every layer's gradient by ξ_k before the optimizer steps.

    Works with any ``torch.optim`` optimizer and any training loop that averages the loss over the
    samples of the global minibatch: ``loss.backward()`` once, or once per microbatch, then
    ``optimizer.step()``. Every backward pass adds to the sums; ``optimizer.step()`` and
    ``optimizer.zero_grad()`` reset them; after ``model.zero_grad()`` only, call :meth:`reset`. Forward
    passes without a backward pass, such as evaluation, have no effect. Over several processes gradients
    must be averaged, as DistributedDataParallel does, not summed.

    Order within a step: gradients are averaged over ranks, unscaled by a ``GradScaler`` and clipped, all
    before ``step()``; then multiplied by ξ; then the optimizer applies weight decay (not scaled) and
    momentum (which thus sees ξ_k G_k).

    Args:
        model: a :class:`~scaled_sgd.core.network.HomogeneousMLP` or any module whose trainable layers are
            ``nn.Linear`` applied in registration order, also inside DistributedDataParallel or
            ``torch.compile``. A bias gets its layer's scale and counts as one more feature of value 1
            in F_k (ours). Plain ``nn.Linear`` layers have α = ω = 1.
        optimizer: attached immediately if given.
        rule: ``norm``, ``gain``, ``kernel``, ``unit``, ``spectral`` or ``none``; ``spectral`` replaces every
            gradient, which each rank must hold in full, by its polar factor. Steps of these two do not depend
            on the norm of gradients: to clip them set ``factor``.
        static: keep the first step's scales; later steps measure nothing.
        polar: how ``spectral`` equalises singular values.
        process_group: the ranks that share the global minibatch; the default group if None.
        grad_scaler: the ``torch.amp.GradScaler`` in use, if any: the norms are divided by its loss scale.

    Attributes:
        statistics: statistics of the last step; None if nothing was measured.
        factor: () multiplies the direction of the next step, such as a clip factor; None: 1.
        squares: measures ‖G_k‖_F² (l,) at a step; by default from the gradients' shards.

    Raises:
        UserError: an unknown rule, or trainable parameters outside ``nn.Linear`` layers.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        rule: str = "norm",
        static: bool = False,
        polar: Polar = POLAR,
        process_group: dist.ProcessGroup | None = None,
        grad_scaler: "torch.amp.GradScaler | None" = None,
    ) -> None:
        if not isinstance(polar, Polar):
            raise UserError(f"polar: {polar!r} does not fit; allowed: a steps.polynomials.Polar")
        self._rule = RULES[rule].with_settings(polar)
        if not isinstance(static, bool):
            raise UserError(f"static: {static!r} is not usable; allowed: True, False")
        if static and not self._rule.scalar:
            raise UserError(f"static: True has no meaning for {rule!r}, which has no scale; allowed: False")
        self.rule = rule
        self.static = static
        self.layers: list[MeasuredLayer] = measured_layers(model)
        self._norms = SignalNorms(self.layers, process_group=process_group, grad_scaler=grad_scaler)
        self._scales: Tensor | None = None
        self._elsewhere = self._wanted = False
        self.statistics: Statistics | None = None
        self.factor: Tensor | None = None
        self.squares: Callable[[], Tensor] = self._gradient_squares
        self._optimizer: Optimizer | None = None
        self._handles: list[RemovableHandle] = []
        self._restore_zero_grad: Callable[[], None] | None = None
        self._measure()
        if optimizer is not None:
            self.attach(optimizer)

    @property
    def scales(self) -> Tensor:
        """ξ of the last step, shape (l,), float64, on the model's device; ones before the first step."""
        if self._scales is None:
            return torch.ones(len(self.layers), dtype=torch.float64, device=self._norms.device)
        return self._scales

    @property
    def overlap(self) -> bool:
        """Start the all-reduce inside the coming backward pass.

        Set it only before the last backward pass of a step; the all-reduce then overlaps with DDP's own
        communication. If False, the all-reduce happens at the step.
        """
        return self._norms.overlap

    @overlap.setter
    def overlap(self, value: bool) -> None:
        self._norms.overlap = value

    def update(self) -> Tensor:
        """ξ (l,) from this step's sums over the ranks, times ``factor``; resets the sums. Collective.

        Raises:
            UserError: no backward pass has run since the last step.
        """
        self.statistics = None
        if not self._frozen or self._wanted:
            depth = len(self.layers)
            self.statistics = Statistics(
                slice(0, depth),
                depth,
                *self._norms.reduce(),
                self._norms.omega,
                shapes=[joined_shape(layer) for layer in self.layers],
                dtype=torch.promote_types(self.layers[0].parameters[0].dtype, torch.float32),
                squares=self.squares,
                gradient=lambda i, dtype=None: smaller_side(self.layers[i], dtype),
            )
            direction = self.direction(self.statistics)
            if not direction.is_scalar and not self._rule.polar:
                raise UserError(
                    f"scaling.rule: {self.rule!r} gives matrices, which gradients do not take; allowed: "
                    "optim.update fused, or a rule of gradients"
                )
            if self._rule.polar:
                replace_gradients(self.layers, direction)
            self.record(direction.numbers)
            self._wanted = False
            self._measure()
        self._norms.reset()
        if self.factor is None:
            return self.scales
        factor, self.factor = self.factor, None
        return self.scales * factor

    def direction(self, statistics: Statistics) -> Direction:
        """K of the layers in ``statistics`` for a step; frozen if static."""
        if self._frozen:
            return Direction(self.scales[statistics.layers])
        return self._rule(statistics)

    def want_statistics(self) -> None:
        """Make the next step set ``statistics`` even if its scales are frozen."""
        self._wanted = True
        self._measure()

    def measure_elsewhere(self) -> "DepthwiseScaling":
        """Stop watching backward passes: steps measure signals themselves and :meth:`record` their scales.

        Returns self.
        """
        self._elsewhere = True
        self._measure()
        return self

    def record(self, scales: Tensor) -> None:
        """Store ξ (l,) of a step that measured its signals itself."""
        if not self._frozen:
            self._scales = scales

    def attach(self, optimizer: Any) -> None:
        """Scale gradients before every step of ``optimizer``, a torch optimizer or Accelerate's wrapper.

        Raises:
            UserError: it is not an optimizer, it trains other weights, or one is already attached.
        """
        inner = getattr(optimizer, "optimizer", optimizer)
        if not isinstance(inner, Optimizer):
            raise UserError(
                f"optimizer: {type(optimizer).__name__} does not fit; allowed: a torch.optim.Optimizer"
            )
        if self._optimizer is not None:
            raise UserError("optimizer: one is attached already; call detach() first; allowed: one")
        trained = {parameter for group in inner.param_groups for parameter in group["params"]}
        for layer in self.layers:
            if not trained.issuperset(layer.parameters):
                raise UserError(
                    f"optimizer: it does not train layer {layer.name}; allowed: all scaled layers"
                )
        self._optimizer = inner
        self._handles.append(inner.register_step_pre_hook(self._before_step))
        self._restore_zero_grad = _call_after_zero_grad(inner, self._norms.reset)
        self._measure()

    def detach(self) -> None:
        """Remove all hooks from the optimizer and the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._restore_zero_grad is not None:
            self._restore_zero_grad()
        self._restore_zero_grad = self._optimizer = None
        self._norms.stop()

    def reset(self) -> None:
        """Reset the sums of the current step, as ``zero_grad`` does."""
        self._norms.reset()

    def state_dict(self) -> dict[str, Any]:
        """The last scales, which is all that a static rule needs to resume."""
        scales = None if self._scales is None else self._scales.detach().cpu().clone()
        return {"rule": self.rule, "static": self.static, "scales": scales}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        Raises:
            UserError: the state belongs to another rule or another number of layers.
        """
        for key in ("rule", "static", "scales"):
            if key not in state:
                raise UserError(f"state_dict: it has no {key!r}; allowed: the state of a DepthwiseScaling")
        for key in ("rule", "static"):
            if state[key] != getattr(self, key):
                raise UserError(
                    f"scaling.{key}: {getattr(self, key)!r} differs from the saved {state[key]!r}; "
                    "allowed: the same"
                )
        scales = state["scales"]
        if scales is not None and (not isinstance(scales, Tensor) or scales.shape != (len(self.layers),)):
            raise UserError(
                f"state_dict: its scales do not fit; allowed: a tensor ({len(self.layers)},), one a layer"
            )
        self._scales = None if scales is None else scales.to(self._norms.device, torch.float64)
        self._measure()

    @property
    def _frozen(self) -> bool:
        return self.rule == "none" or (self.static and self._scales is not None)

    def _measure(self) -> None:
        if self._elsewhere or (self._frozen and not self._wanted):
            self._norms.stop()
        else:
            self._norms.start()

    def _gradient_squares(self) -> Tensor:
        """‖G_k‖_F² (l,), float64, of the gradients as they are. Collective where they are in parts."""
        sharded = any(is_sharded(p) for layer in self.layers for p in layer.parameters)
        copies = dist.get_world_size(self._norms.group) if sharded else 1
        squares = torch.zeros(len(self.layers), dtype=torch.float64, device=self._norms.device)
        for k, layer in enumerate(self.layers):
            for p in layer.parameters:
                if p.grad is not None:
                    squares[k] += square_norm(local_shard(p.grad)) / (1 if is_sharded(p) else copies)
        if sharded:
            dist.all_reduce(squares, group=self._norms.group)
        return squares

    def _before_step(
        self, _optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._scale_gradients()
            return None

        def scaled_closure() -> Any:
            loss = closure()
            self._scale_gradients()
            return loss

        if len(args) > 1:
            return (args[0], scaled_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": scaled_closure}

    def _scale_gradients(self) -> None:
        if self.rule == "none" and self.factor is None and not self._wanted:
            return
        if not self._norms.seen and all(p.grad is None for layer in self.layers for p in layer.parameters):
            return
        scales = self.update()
        for layer, xi in zip(self.layers, scales, strict=True):
            for parameter in layer.parameters:
                if parameter.grad is not None:
                    local_shard(parameter.grad).mul_(xi)


def _call_after_zero_grad(optimizer: Optimizer, callback: Callable[[], None]) -> Callable[[], None]:
    """Make ``optimizer.zero_grad`` also call ``callback``; returns a function that undoes this."""
    original = optimizer.zero_grad

    def zero_grad(set_to_none: bool = True) -> None:
        original(set_to_none=set_to_none)
        callback()

    vars(optimizer)["zero_grad"] = zero_grad

    def restore() -> None:
        vars(optimizer).pop("zero_grad", None)

    return restore
