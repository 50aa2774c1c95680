"""The trace of an operator from random signs (Hutchinson, Commun. Stat. Simul. 19, 1990)."""

from collections.abc import Callable

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.operators.space import Operator


@torch.no_grad()
def hutchinson(
    operator: Operator, normal: Callable[[int], Tensor], *, probes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The mean of sᵀCs over random signs s, and its standard error, 0-dimensional float64.

    Args:
        operator: C, on vectors whose coefficients are weights.
        normal: gives standard normal weights for a seed.
        probes: number of sign vectors s.
        seed: seed of the signs.

    Raises:
        UserError: fewer than two probes.
    """
    if probes < 2:
        raise UserError(f"probes: {probes!r} is not usable; allowed: integers from 2")
    vectors = operator.vectors
    out = torch.empty(vectors.size, dtype=vectors.dtype, device=vectors.device)
    samples = []
    for probe in range(probes):
        signs = normal(seed * probes + probe).sign()
        samples.append(vectors.sum(torch.dot(signs, operator.multiply(signs, out))).double())
    values = torch.stack(samples)
    return values.mean(), values.std() / probes**0.5
