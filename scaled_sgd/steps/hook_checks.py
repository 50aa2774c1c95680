"""What the hook refuses: networks, numbers and states that depthwise scaling cannot serve."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import ScaledLinear
from scaled_sgd.parallel import is_sharded
from scaled_sgd.steps.hook_layers import MeasuredLayer
from scaled_sgd.steps.statistics import Statistics


def check_unchanged(model: nn.Module, trained: Sequence[nn.Parameter]) -> None:
    """Refuse a network whose trainable parameters are no longer ``trained``.

    Raises:
        UserError: a parameter was frozen, unfrozen, added or replaced.
    """
    current = [p for p in model.parameters() if p.requires_grad]
    # FSDP2 gives a module other parameters while its weights are gathered.
    if len(current) == len(trained) and all(
        a is b or is_sharded(b) for a, b in zip(current, trained, strict=True)
    ):
        return
    known = set(trained)
    new = [name for name, p in model.named_parameters() if p.requires_grad and p not in known]
    what = f"{new[0]} was unfrozen, added or replaced" if new else "a parameter was frozen or removed"
    raise UserError(
        f"model: {what} after the scaling was attached; allowed: the same trainable parameters "
        "(else detach() and build a new one)"
    )


def is_captured(t: Tensor) -> bool:
    """Whether work on ``t`` is being captured as a CUDA graph, where nothing can be read."""
    return t.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class StepChecks:
    """Checks the scales of every step where numbers are read for nothing, else those of steps 1, 2, 4, 8, ...
    None while a CUDA graph is captured: check a network by steps before.

    Args:
        layers: the measured layers.
    """

    def __init__(self, layers: Sequence[MeasuredLayer]) -> None:
        self._layers = layers
        self._steps = 0
        self._warned = False

    def __call__(self, statistics: Statistics, xi: Tensor, passes: Tensor, usable: Tensor) -> None:
        """Check ``passes`` (l,) of a step and, if it is ``usable`` (), its scales ξ (l,).

        Raises:
            UserError: layers took part in different numbers of passes, or a scale is out of range.
        """
        if is_captured(usable):
            return
        self._steps += 1
        # A number that is read makes other devices than CPUs wait.
        rare = self._steps & (self._steps - 1) == 0
        if self._steps == 1 and bool(usable):
            warn_of_inputs(self._layers[0], float(statistics.F[0]))
        if rare and not self._warned and bool(usable):
            self._warned |= check_loss_scale(statistics)
        if usable.device.type == "cpu" or rare:
            check_passes(self._layers, passes.tolist())
            if bool(usable):
                self._warned |= check_scales(self._layers, statistics, xi, warn=not self._warned)


def warn_of_inputs(first: MeasuredLayer, f: float) -> None:
    """Warn of inputs of a homogeneous network that are far from norm √m_0; ``f`` is F_1 = α_1² mean‖x‖²."""
    if not isinstance(first.module, ScaledLinear):
        return
    norm, usual = math.sqrt(f) / first.multiplier, math.sqrt(first.module.in_features)
    if 0 < norm < usual / 2 or norm > 2 * usual:
        warnings.warn(
            f"inputs have norms around {norm:.3g}, far from √m_0 = {usual:.3g}, at which signals have "
            "unit size at step 0: scale each row to that norm",
            stacklevel=2,
        )


def check_passes(layers: Sequence[MeasuredLayer], passes: Sequence[float]) -> None:
    """Refuse layers that took part in more passes than others, or in none since their gradients were cleared.

    Raises:
        UserError: there are some.
    """
    often, seldom = (passes.index(count) for count in (max(passes), min(passes)))
    if passes[often] != passes[seldom]:
        raise UserError(
            f"model: layer {layers[often].name} ran {passes[often]:g} times and layer "
            f"{layers[seldom].name} {passes[seldom]:g} times; allowed: every layer once a microbatch"
        )
    if passes[often] == 0:
        raise UserError(
            "model: a second backward pass went through a forward pass whose first gradients were cleared; "
            "allowed: another forward pass"
        )


def check_scales(layers: Sequence[MeasuredLayer], statistics: Statistics, xi: Tensor, *, warn: bool) -> bool:
    """Refuse scales ξ (l,) that the gradients' type cannot hold; if ``warn``, warn of one that is 0.

    Returns:
        Whether a scale is 0.

    Raises:
        UserError: a scale is out of range.
    """
    values = xi.tolist()
    narrow = torch.finfo(torch.float32)
    if narrow.tiny <= min(values) and max(values) <= narrow.max:
        return False
    for layer, value in zip(layers, values, strict=True):
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        if value and not torch.finfo(dtype).tiny <= value <= torch.finfo(dtype).max:
            raise UserError(
                f"scaling: ξ = {value:.3g} of layer {layer.name} is out of the range of {dtype}; "
                "allowed: inputs and losses of ordinary size, or float64"
            )
    if 0 not in values:
        return False
    if warn:
        k = values.index(0)
        F, D = statistics.F[k].item(), statistics.D[k].item()
        warnings.warn(
            f"scaling: ξ of layer {layers[k].name} is 0 and its weights do not move: its signals vanish, "
            f"F = {F:.3g} and D = {D:.3g}",
            stacklevel=2,
        )
    return True


def check_loss_scale(statistics: Statistics) -> bool:
    """Warn if the gradients of a step are far too small for its signals, and return whether.

    A soft rank beyond any number of samples, in all layers, is what a ``GradScaler`` leaves that the hook was
    not told of: 65536² times the true one (ours).
    """
    smallest = float(statistics.soft_ranks.min())
    if not _LARGEST_SOFT_RANK < smallest < math.inf:
        return False
    warnings.warn(
        f"scaling: gradients are {smallest**0.5:.0e} times smaller at the step than in the backward pass, "
        "and so are the scales: pass grad_scaler= if a GradScaler is in use",
        stacklevel=2,
    )
    return True


_LARGEST_SOFT_RANK = 1e8


def checked_scales(state: Mapping[str, Any], *, rule: str, static: bool, depth: int) -> Tensor | None:
    """The scales (l,) of a saved state, if it has any.

    Raises:
        UserError: the state belongs to another rule or another number of layers.
    """
    for key in ("rule", "static", "scales"):
        if key not in state:
            raise UserError(f"state_dict: it has no {key!r}; allowed: the state of a DepthwiseScaling")
    for key, own in (("rule", rule), ("static", static)):
        if state[key] != own:
            raise UserError(
                f"scaling.{key}: {own!r} differs from the saved {state[key]!r}; allowed: the same"
            )
    scales = state["scales"]
    if scales is not None and (not isinstance(scales, Tensor) or scales.shape != (depth,)):
        raise UserError(f"state_dict: its scales do not fit; allowed: a tensor ({depth},), one a layer")
    return scales
