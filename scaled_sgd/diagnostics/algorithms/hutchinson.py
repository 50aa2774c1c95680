"""The trace of an operator from random signs (Hutchinson, Commun. Stat. Simul. 19, 1990)."""

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.operators.space import Space


@torch.no_grad()
def hutchinson(space: Space, *, probes: int, seed: int) -> tuple[Tensor, Tensor]:
    """The mean of sᵀHs over random signs s, and its standard error, 0-dimensional float64.

    Args:
        space: an operator whose coefficients are weights.
        probes: number of sign vectors s.
        seed: seed of the signs.

    Raises:
        UserError: fewer than two probes.
    """
    if probes < 2:
        raise UserError(f"probes: {probes!r} is not usable; allowed: integers from 2")
    out = torch.empty(space.size, dtype=space.dtype, device=space.device)
    samples = []
    for probe in range(probes):
        signs = space.random(seed * probes + probe).sign()
        samples.append(space.sum(torch.dot(signs, space.multiply(signs, out))).double())
    values = torch.stack(samples)
    return values.mean(), values.std() / probes**0.5
