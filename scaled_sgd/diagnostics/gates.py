"""How many preactivations a step moves across the kink of φ, where Taylor terms end (theory §4)."""

import torch
from torch import Tensor

from scaled_sgd.core.piecewise_linear import PiecewiseLinear
from scaled_sgd.diagnostics.moved import moved_preactivations
from scaled_sgd.diagnostics.taylor import Along, updates_for
from scaled_sgd.steps.minibatch import Minibatch


@torch.no_grad()
def gates_flipped(batch: Minibatch, along: Along, rate: float) -> Tensor | None:
    """The share of D_k's entries that the step W ← W + rate · u changes, (l − 1,), float64.  [ours]

    None where φ is smooth, which has no kink. Costs a forward pass with W + rate · u, which is never formed.

    Args:
        batch: the minibatch.
        along: u, as for :func:`~scaled_sgd.diagnostics.taylor.taylor_of`.
        rate: the step size along u.
    """
    phi, widths = batch.partition.activation, batch.partition.widths
    if not isinstance(phi, PiecewiseLinear):
        return None
    flipped = torch.zeros(len(widths) - 2, dtype=torch.float64, device=batch.partition.device)
    if phi.positive_slope != phi.negative_slope and len(flipped):
        updates = updates_for(batch, along)
        for s in batch:
            hidden = zip(range(1, s.depth), moved_preactivations(s, updates(s), rate), strict=False)
            for k, z in hidden:
                # Between two factors there is no kink.
                if batch.partition.activation_at(k) is phi:
                    flipped[k - 1] += ((z > 0) != (s.gate[k] > 0)).sum()
    return flipped / batch.total / flipped.new_tensor(widths[1:-1])
