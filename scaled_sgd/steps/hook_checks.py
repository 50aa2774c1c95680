"""What the hook refuses: networks and numbers that depthwise scaling cannot serve."""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
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
