"""Loss and outputs over a split, distributed over ranks."""

from collections.abc import Callable

import torch
from torch import Tensor

from scaled_sgd.core.losses import Loss, apart
from scaled_sgd.data import Resident, rank_rows
from scaled_sgd.parallel import Ranks

ROWS = 4096
"""Samples per forward pass."""


@torch.no_grad()
def mean_loss(
    model: Callable[[Tensor], Tensor], samples: Resident, *, loss: Loss, ranks: Ranks
) -> tuple[float, Tensor]:
    """Mean loss over ``samples`` and this rank's outputs f (rows of this rank, m_l), f − f_0 of a
    centred network. Collective.

    Args:
        model: maps (n, m_0) to (n, m_l).
        samples: the same on every rank, with targets in the form that the loss takes.
        loss: ℓ.
        ranks: the processes over which the samples are distributed.
    """
    own = rank_rows(len(samples), ranks.rank, ranks.size)
    total = torch.zeros((), dtype=torch.float64, device=samples.x.device)
    outputs = []
    most = -(-len(samples) // ranks.size)
    # As many forward passes as on the rank with the most rows: a sharded model needs every rank in each.
    for start in range(own.start, own.start + max(most, 1), ROWS):
        rows = slice(min(start, own.stop), min(start + ROWS, own.stop))
        f = model(samples.x[rows])
        total += loss.value(f, samples.y[rows]).sum()
        outputs.append(apart(loss, f, samples.y[rows])[1])
    return float(ranks.sum(total)) / len(samples), torch.cat(outputs)


def gather_outputs(outputs: Tensor, count: int, ranks: Ranks) -> Tensor:
    """All ranks' outputs in the order of the ``count`` samples. Collective."""
    parts = (rank_rows(count, rank, ranks.size) for rank in range(ranks.size))
    return ranks.gather(outputs, [rows.stop - rows.start for rows in parts])
