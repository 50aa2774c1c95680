"""Loss and outputs over a whole split, shared out over ranks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scaled_sgd.data import Resident, rank_rows
from scaled_sgd.losses import Loss
from scaled_sgd.sharding import Ranks

ROWS = 4096
"""Samples of one forward pass."""


@torch.no_grad()
def mean_loss(
    model: nn.Module, samples: Resident, targets: Callable[[Tensor], Tensor], *, loss: Loss
) -> tuple[float, Tensor]:
    """Mean loss over ``samples`` and this rank's outputs f (rows of this rank, m_l). Collective.

    Args:
        model: maps (n, m_0) to (n, m_l).
        samples: the same on every rank.
        targets: turns ``samples.y`` into what the loss takes.
        loss: ℓ.
    """
    ranks = Ranks()
    own = rank_rows(len(samples), ranks.rank, ranks.size)
    total = torch.zeros((), dtype=torch.float64, device=samples.x.device)
    outputs = []
    # One forward pass even without rows: a sharded model needs every rank in it.
    for start in range(own.start, max(own.stop, own.start + 1), ROWS):
        rows = slice(start, min(start + ROWS, own.stop))
        f = model(samples.x[rows])
        total += loss.value(f, targets(samples.y[rows])).sum()
        outputs.append(f)
    return float(ranks.sum(total)) / len(samples), torch.cat(outputs)


def gather_outputs(outputs: Tensor, count: int) -> Tensor:
    """All ranks' outputs in the order of the ``count`` samples. Collective."""
    ranks = Ranks()
    parts = (rank_rows(count, rank, ranks.size) for rank in range(ranks.size))
    return ranks.gather(outputs, [rows.stop - rows.start for rows in parts])
