"""The loss along a line through the weights: along a direction, or between two networks."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from scaled_sgd.diagnostics.directions import given_direction
from scaled_sgd.diagnostics.eigenpairs import Eigenpairs
from scaled_sgd.diagnostics.generic_line import GenericLine, check_unchunked
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.moved import moved_loss
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.diagnostics.taylor import Along, updates_for
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch


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
        model: a HomogeneousMLP, possibly wrapped or sharded; other networks take the generic path, with
            tensors or eigenpairs as direction and without chunks.
        x: this process's samples.
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        direction: u, as for :func:`~scaled_sgd.diagnostics.taylor.taylor_coefficients`; between two networks
            the differences of their weights.
        at: the values of t.
        chunk_size: largest number of samples at a time.

    Raises:
        UserError: invalid x, y or direction.
    """
    if not is_homogeneous(model):
        check_unchunked(chunk_size)
        return GenericLine(model, x, y, loss=loss, direction=direction).losses(at)
    batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
    found = list(losses_along(batch, given_direction(direction, batch), at))
    return torch.stack(found) if found else torch.empty(0, dtype=torch.float64)


def losses_along(batch: Minibatch, along: Along, at: Iterable[float]) -> Iterator[Tensor]:
    """The mean loss () at each t, float64; u as for :func:`~scaled_sgd.diagnostics.taylor.taylor_of`."""
    updates = updates_for(batch, along)
    for t in at:
        yield moved_loss(batch, updates, t)
