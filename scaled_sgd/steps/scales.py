"""The scales ξ_k that a diagnostic is asked to use (theory §3)."""

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.steps.rules import get_rule
from scaled_sgd.steps.signals import Minibatch


@torch.no_grad()
def mean_squares(batch: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
    """F (l,), D (l,) and R () of the global minibatch, float64.

    F_k = (α_k²/n) Σ‖h_{k−1}‖², D_k = (1/n) Σ‖δ_k‖², R = (1/n) Σ‖r‖².
    """
    partition, depth = batch.partition, batch.partition.depth
    F = torch.zeros(depth, dtype=torch.float64, device=partition.device)
    D = torch.zeros_like(F)
    for signals in batch:
        for k in range(1, depth + 1):
            F[k - 1] += partition.multiplier(k) ** 2 * signals.h[k - 1].square().sum()
            D[k - 1] += signals.delta[k].square().sum()
    partition.sum(D)
    F, D = F / batch.total, D / batch.total
    return F, D, D[-1]


def resolve_scales(scales: str | Tensor | None, batch: Minibatch) -> Tensor:
    """ξ (l,): ones for None, the rule's for its name, or the given tensor.

    Raises:
        UserError: an unknown rule, or a tensor of another shape or with negative entries.
    """
    partition = batch.partition
    if isinstance(scales, str):
        rule = get_rule(scales)
        omega = torch.tensor(
            [layer.layer_weight for layer in partition.model.scaled_layers],
            dtype=torch.float64,
            device=partition.device,
        )
        return rule(*mean_squares(batch), omega, partition.depth).to(partition.dtype)
    return given_scales(scales, partition.depth, dtype=partition.dtype, device=partition.device)


def given_scales(scales: Tensor | None, count: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Ones for None, else the tensor itself, shape (count,).

    Raises:
        UserError: another shape, or numbers that are negative or not finite.
    """
    if scales is None:
        return torch.ones(count, dtype=dtype, device=device)
    if not isinstance(scales, Tensor) or scales.shape != (count,):
        shape = tuple(getattr(scales, "shape", ())) or scales
        raise UserError(f"scales: {shape!r} does not fit; allowed: None, a rule's name or shape ({count},)")
    if scales.is_complex() or not bool(((scales >= 0) & scales.isfinite()).all()):
        raise UserError(f"scales: {scales.tolist()} are not usable; allowed: finite numbers from 0")
    return scales.detach().to(device, dtype)
