"""The loss along a line through the weights: along a direction, or between two networks."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from scaled_sgd.diagnostics.directions import Updates, given_direction, push
from scaled_sgd.diagnostics.eigenpairs import Eigenpairs
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.diagnostics.taylor import Along, updates_for
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.signals import Signals


@without_autocast
def loss_along(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: str,
    direction: Direction | Sequence[Tensor] | Eigenpairs,
    at: Sequence[float],
    chunk_size: int | None = None,
) -> Tensor:
    """L(θ + t u) of the global minibatch at each t of ``at``, shape (len(at),), float64.

    The loss itself, also where activations change sign, which :func:`taylor_coefficients` does not see. A
    value costs a forward pass and a product of each layer with u; W + t u is never formed.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded.
        x: this process's samples.
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        direction: u, as for :func:`~scaled_sgd.diagnostics.taylor.taylor_coefficients`; between two networks
            the differences of their weights.
        at: the values of t.
        chunk_size: largest number of samples at a time.

    Raises:
        UserError: another kind of network, or invalid x, y or direction.
    """
    batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
    found = list(losses_along(batch, given_direction(direction, batch), at))
    return torch.stack(found) if found else torch.empty(0, dtype=torch.float64)


def losses_along(batch: Minibatch, along: Along, at: Iterable[float]) -> Iterator[Tensor]:
    """The mean loss () at each t, float64; u as for :func:`~scaled_sgd.diagnostics.taylor.taylor_of`."""
    updates = updates_for(batch, along)
    for t in at:
        with torch.no_grad():
            total = torch.stack([_chunk_loss(signals, updates(signals), t) for signals in batch]).sum()
            yield total / batch.total


def _chunk_loss(signals: Signals, updates: Updates, t: float) -> Tensor:
    """The sum of losses with the weights W + t u, (), float64."""
    partition, h = signals.partition, signals.h[0]
    for k in range(1, signals.depth + 1):
        z = push(partition, updates(k), h, k).mul_(t)
        z.addmm_(h, partition.local(k).T, alpha=partition.multiplier(k))
        z = partition.gather(z, k)
        h = partition.activation.value(z) if k < signals.depth else z
    return signals.losses(h).sum(dtype=torch.float64)
