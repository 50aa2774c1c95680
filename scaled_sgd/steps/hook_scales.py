"""The scales ξ of a step, from the signals that autograd's passes give (theory §3)."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import unwrap
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.hook_checks import StepChecks, checked_scales, is_captured
from scaled_sgd.steps.hook_gradients import Gradients, gradient_squares
from scaled_sgd.steps.hook_layers import MeasuredLayer, measured_layers
from scaled_sgd.steps.hook_polar import joined_shape, replace_gradients, smaller_side
from scaled_sgd.steps.hook_sums import SignalNorms
from scaled_sgd.steps.polynomials import Polar
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.statistics import Statistics


class MeasuredScales:
    """Measures a step's signals while autograd runs and gives its scales by a rule, frozen if ``static``.

    Arguments and attributes are those of :class:`~scaled_sgd.steps.hook.DepthwiseScaling`, whose part it is.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rule: str,
        static: bool,
        polar: Polar,
        process_group: dist.ProcessGroup | None,
        grad_scaler: "torch.amp.GradScaler | None",
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

    def _begin(
        self, process_group: dist.ProcessGroup | None, grad_scaler: "torch.amp.GradScaler | None"
    ) -> None:
        """All that a copy starts anew."""
        self._norms = SignalNorms(self.layers, process_group=process_group, grad_scaler=grad_scaler)
        self._checks = StepChecks(self.layers)
        self._wanted = False
        self.statistics: Statistics | None = None
        self.factor: Tensor | None = None
        self.squares: Callable[[], Tensor] = self._gradient_squares

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
        total = F + D + direction.numbers
        # All are finite: with fewer launches than isfinite.
        usable = (total - total == 0).all()
        if gradients is not None and gradients.overflowed is not None:
            usable = usable & (gradients.overflowed.to(usable.device) == 0)
        if gradients is not None and self.static and not self._frozen:
            # Sums whose gradients were set to zero since are not a step's.
            usable = usable & self._gradient_squares().all()
        self._checks(statistics, direction.numbers, passes, usable)
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

    def measure_elsewhere(self) -> Self:
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
        if self._scales is not None and is_captured(scales):
            # A replay reads the scales of the last one where it left its own.
            self._scales.copy_(scales)
        else:
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
        scales = checked_scales(state, rule=self.rule, static=self.static, depth=len(self.layers))
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
