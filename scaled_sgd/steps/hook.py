"""Depthwise gradient scaling: W_k ← W_k − η ξ_k G_k with one factor ξ_k per layer and step (theory §3).

:class:`DepthwiseScaling` measures the mean squares for the :mod:`~scaled_sgd.steps.rules` while autograd
runs and scales the gradients just before the step of any optimizer;
:class:`scaled_sgd.steps.optimizer.ScaledSGD` folds the factor into the update.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import local_shard, unwrap
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.hook_checks import check_loss_scale, check_passes, check_scales
from scaled_sgd.steps.hook_gradients import Gradients, gradient_squares
from scaled_sgd.steps.hook_layers import MeasuredLayer, measured_layers
from scaled_sgd.steps.hook_polar import joined_shape, replace_gradients, smaller_side
from scaled_sgd.steps.hook_sums import SignalNorms
from scaled_sgd.steps.polynomials import POLAR, Polar
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.statistics import Statistics


class DepthwiseScaling:
    """Measures a step's signals and multiplies every layer's gradient by ξ_k before the optimizer steps.

    Works with any ``torch.optim`` optimizer and any training loop that averages the loss over the
    samples of the global minibatch: ``loss.backward()`` once, or once per microbatch, then
    ``optimizer.step()``. Backward passes through one forward pass count as one of the sum of their losses.
    Every backward pass adds to the sums of a layer as it adds to its gradient, and sums go with their
    gradient, whoever clears it (sharded gradients that are set to zero instead of None: by
    ``optimizer.zero_grad``). Forward passes without a backward pass, such as evaluation, have no effect.
    Over several processes gradients must be averaged, as DistributedDataParallel does, not summed.

    A step whose norms are not finite, or that a ``GradScaler`` found to overflow, changes no scale.
    A network that trains other parameters than when the hook was attached is refused at the step.
    Copies and pickles of a hooked optimizer have a hook of their own; those of a network have none.

    Order within a step: gradients are averaged over ranks, unscaled by a ``GradScaler`` and clipped, all
    before ``step()``; then multiplied by ξ; then the optimizer applies weight decay (not scaled) and
    momentum (which thus sees ξ_k G_k).

    Args:
        model: a :class:`~scaled_sgd.core.network.HomogeneousMLP` or any module whose trainable layers are
            ``nn.Linear`` applied in registration order, also inside DistributedDataParallel or
            ``torch.compile``, each once in a forward pass. A layer's means are over its own rows, such as
            all tokens before pooling and all samples after it. A bias gets its layer's scale and counts as
            one more feature of value 1 in F_k (ours). Plain ``nn.Linear`` layers have α = ω = 1.
        optimizer: attached immediately if given.
        rule: ``norm``, ``gain``, ``kernel``, ``unit``, ``spectral`` or ``none``; ``spectral`` replaces every
            gradient, which each rank must hold in full, by its polar factor. Steps of these two do not depend
            on the norm of gradients: to clip them set ``factor``.
        static: keep the scales of the first step that gives every layer one; later steps measure nothing.
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
        RULES[rule]
        if not isinstance(static, bool):
            raise UserError(f"static: {static!r} is not usable; allowed: True, False")
        if not isinstance(polar, Polar):
            raise UserError(f"polar: {polar!r} does not fit; allowed: a steps.polynomials.Polar")
        if static and not RULES[rule].scalar:
            raise UserError(f"static: True has no meaning for {rule!r}, which has no scale; allowed: False")
        self.rule = rule
        self.polar = polar
        self.static = static
        self.layers: list[MeasuredLayer] = measured_layers(model)
        self._model = unwrap(model)
        self._scales: Tensor | None = None
        self._elsewhere = False
        self._begin(process_group, grad_scaler)
        self._measure()
        if optimizer is not None:
            self.attach(optimizer)

    def _begin(
        self, process_group: dist.ProcessGroup | None, grad_scaler: "torch.amp.GradScaler | None"
    ) -> None:
        """All that a copy starts anew."""
        self._norms = SignalNorms(self.layers, process_group=process_group, grad_scaler=grad_scaler)
        self._wanted = self._warned = False
        self._steps = 0
        self.statistics: Statistics | None = None
        self.factor: Tensor | None = None
        self.squares: Callable[[], Tensor] = self._gradient_squares
        self._optimizer: Optimizer | None = None
        self._handles: list[RemovableHandle] = []

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
            UserError: no backward pass has run since the last step, or the network cannot be scaled.
        """
        self.statistics = None
        if self._norms.gradients is not None:
            self._norms.gradients.check()
        scales = self.scales
        if not self._frozen or self._wanted:
            scales = self._measured_scales()
        self._norms.reset()
        if self.factor is None:
            return scales
        factor, self.factor = self.factor, None
        return scales * factor

    def _measured_scales(self) -> Tensor:
        """ξ (l,) of this step, kept if it is finite; else that of the last step that was."""
        depth, gradients = len(self.layers), self._norms.gradients
        if not self._norms.seen and self._has_zero_gradients:
            # torch.distributed.checkpoint takes a step with zero gradients to make an optimizer's state.
            return self.scales
        self._norms.drop_gone()
        F, D, R, passes = self._norms.reduce()
        held, polar = self._parameters, RULES[self.rule].polar
        statistics = Statistics(
            slice(0, depth),
            depth,
            F,
            D,
            R,
            self._norms.omega,
            # ZeRO's parameters are flat parts.
            shapes=[joined_shape(parameters) for parameters in held] if polar else (),
            dtype=torch.promote_types(held[0][0].dtype, torch.float32),
            squares=self.squares,
            gradient=lambda i, dtype=None: smaller_side(held[i], self.layers[i].name, dtype),
        )
        self.statistics = statistics
        direction = self.direction(statistics)
        if polar:
            replace_gradients(held, direction)
        elif not direction.is_scalar:
            raise UserError(
                f"scaling.rule: {self.rule!r} gives matrices, which gradients do not take; allowed: "
                "optim.update fused, or a rule of gradients"
            )
        usable = (F + D + direction.numbers).isfinite().all()
        if gradients is not None and gradients.overflowed is not None:
            usable = usable & (gradients.overflowed.to(usable.device) == 0)
        if gradients is not None and self.static and not self._frozen:
            # Sums whose gradients were set to zero since are not a step's.
            usable = usable & self._gradient_squares().all()
        self._steps += 1
        # A number that is read makes the device wait: on others than CPUs at steps 1, 2, 4, 8, ...
        rare = self._steps & (self._steps - 1) == 0
        if rare and not self._warned and bool(usable):
            self._warned |= check_loss_scale(statistics)
        if usable.device.type == "cpu" or rare:
            check_passes(self.layers, passes.tolist())
            if bool(usable):
                self._warned |= check_scales(
                    self.layers, statistics, direction.numbers, warn=not self._warned
                )
        self._wanted = False
        found = torch.where(usable, direction.numbers, self.scales)
        self.record(found, usable)
        self._measure()
        return found

    def direction(self, statistics: Statistics) -> Direction:
        """K of the layers in ``statistics`` for a step; frozen if static."""
        if self._frozen:
            return Direction(self.scales[statistics.layers])
        return RULES[self.rule].with_settings(self.polar)(statistics)

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

    def record(self, scales: Tensor, usable: Tensor | None = None) -> None:
        """Store ξ (l,) of a step; frozen ones stay, and only ``usable`` ones that are all positive freeze."""
        if self._frozen:
            return
        if self.static and not bool((scales.isfinite() & (scales > 0)).all() & (usable is None or usable)):
            return
        self._scales = scales

    @property
    def settling(self) -> bool:
        """Whether the scales of a static rule are still to be frozen."""
        return self.static and not self._frozen

    def belong_to(self, optimizer: Optimizer) -> None:
        """Tie the sums to the gradients that ``optimizer`` uses, which it scales itself.

        Raises:
            UserError: it does not train all layers.
        """
        self._norms.gradients = Gradients(self._model, self.layers, optimizer)

    def attach(self, optimizer: Any) -> None:
        """Scale gradients before every step of ``optimizer``, a torch optimizer or Accelerate's wrapper.

        A hook that was attached to it before is detached, with a warning.

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
        if isinstance(getattr(inner, "scaling", None), DepthwiseScaling):
            raise UserError(f"optimizer: {type(inner).__name__} scales its steps itself; allowed: others")
        self.belong_to(inner)
        for hook in list(inner._optimizer_step_pre_hooks.values()):
            other = getattr(hook, "__self__", None)
            if isinstance(other, DepthwiseScaling):
                warnings.warn(
                    "optimizer: another DepthwiseScaling was attached to it and is detached", stacklevel=3
                )
                other.detach()
        self._hook(inner)
        self._measure()

    def detach(self) -> None:
        """Remove all hooks from the optimizer and the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._optimizer is not None:
            for name in ("zero_grad", "__getstate__"):
                vars(self._optimizer).pop(name, None)
        self._optimizer = self._norms.gradients = None
        self._norms.stop()

    def reset(self) -> None:
        """Reset the sums of the current step, as clearing the gradients does."""
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
        return gradient_squares(self._parameters, self._norms.device, self._norms.group)

    @property
    def _parameters(self) -> list[list[nn.Parameter]]:
        """The weight and the bias, if any, of each layer, as the optimizer holds them."""
        gradients = self._norms.gradients
        return [
            layer.parameters if gradients is None else gradients.parameters(k)
            for k, layer in enumerate(self.layers)
        ]

    @property
    def _has_zero_gradients(self) -> bool:
        gradients = self._norms.gradients
        if gradients is None or not any(gradients.of(k) for k in range(len(self.layers))):
            return False
        return not bool(self._gradient_squares().any())

    def __getstate__(self) -> dict[str, Any]:
        if self._norms.group is not None:
            raise UserError(
                "process_group: it cannot be copied; allowed: to copy a scaling of the default group"
            )
        kept = ("rule", "static", "polar", "layers", "_model", "_scales", "_elsewhere", "_optimizer")
        norms = {"grad_scaler": self._norms.grad_scaler, "gradients": self._norms.gradients}
        return {name: vars(self)[name] for name in kept} | norms

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        optimizer, grad_scaler, gradients = (
            state.pop(name) for name in ("_optimizer", "grad_scaler", "gradients")
        )
        vars(self).update(state)
        self._begin(None, grad_scaler)
        self._norms.gradients = gradients
        self._measure()
        if optimizer is not None:
            self._hook(optimizer)

    def _hook(self, optimizer: Optimizer) -> None:
        """Scale gradients before its steps; a copy of it may still be without attributes."""
        hooks = vars(optimizer).setdefault("_optimizer_step_pre_hooks", OrderedDict())
        handle = RemovableHandle(hooks)
        hooks[handle.id] = self._before_step
        self._handles.append(handle)
        self._optimizer = optimizer
        zero_grad, getstate = optimizer.zero_grad, optimizer.__getstate__

        def zero_and_reset(set_to_none: bool = True) -> None:
            zero_grad(set_to_none=set_to_none)
            self.reset()

        vars(optimizer)["zero_grad"] = zero_and_reset
        vars(optimizer)["__getstate__"] = lambda: getstate() | {"_depthwise_scaling": self}

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
        gradients = self._norms.gradients
        assert gradients is not None
        if self.rule == "none" and self.factor is None and not self._wanted:
            return
        layers = range(len(self.layers))
        if not any(gradients.of(k) for k in layers):
            self._norms.reset()
            return
        for k, xi in zip(layers, self.update(), strict=True):
            for gradient in gradients.of(k):
                local_shard(gradient).mul_(xi.to(gradient.device))
