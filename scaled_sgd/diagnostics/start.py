"""How far a network is from its start, whose weights its seed draws again (theory §7)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.core.start import rows_at_start
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.minibatch import Minibatch


@dataclass(frozen=True)
class FromStart:
    """Changes on a batch since the weights W_0 of step 0, float64.

    Attributes:
        linearisation: ‖f − f_lin‖_F/‖f − f_0‖_F with f_lin = f_0 + J_0 (θ − θ_0), (); nan at the start.
        by_weights: ‖α (W − W_0) h‖/‖z_0‖ of every layer, (l,), with h of now.
        by_features: ‖α W_0 (h − h_0)‖/‖z_0‖, (l,). The change of z_k is the sum of both vectors.
    """

    linearisation: Tensor
    by_weights: Tensor
    by_features: Tensor


def start_rows(partition: Partition, k: int) -> Tensor:
    """This process's rows of W_k at step 0, (width(k), m_{k−1}), drawn again."""
    layer, own = partition.layers[k - 1], partition.columns(k)
    drawn = rows_at_start(partition.model, k, own.start, own.stop)
    return drawn.to(layer.weight.dtype).to(partition.device, partition.dtype)


@torch.no_grad()
def is_at_start(partition: Partition) -> bool:
    """Whether every weight is that of step 0. Collective."""
    others = [(partition.local(k) != start_rows(partition, k)).sum() for k in range(1, partition.depth + 1)]
    return float(partition.sum(torch.stack(others).sum().double())) == 0


@torch.no_grad()
def from_start(batch: Minibatch) -> FromStart:
    """The changes on a batch; W_0 is drawn one layer at a time, for each chunk. Collective.

    With V = W − W_0 three chains go through the layers: z_0, the change z − z_0 = α(V h + W_0 (h − h_0)), and
    the derivative of z_0 along V, which is f_lin − f_0 at the output.
    """
    partition = batch.partition
    squares = sum(_squares(partition, x) for x in torch.split(batch.x, batch.chunk_size))
    assert isinstance(squares, Tensor)
    by_weights, by_features, start, rest, whole = squares.unbind()
    return FromStart((rest[-1] / whole[-1]).sqrt(), (by_weights / start).sqrt(), (by_features / start).sqrt())


def _squares(partition: Partition, x: Tensor) -> Tensor:
    """Squares summed over samples, (5, l): both parts, z_0, the change beyond its linear part, the change."""
    n = len(x)
    h_0 = h = partition.start(x)
    Rh = torch.zeros_like(h)
    found = []
    for k in range(1, partition.depth + 1):
        alpha, W_0 = partition.multiplier(k), start_rows(partition, k)
        z_0, inherited, linear = torch.split(alpha * torch.cat([h_0, h - h_0, Rh]) @ W_0.T, n)
        V = W_0.neg_().add_(partition.local(k))
        own, first = torch.split(alpha * torch.cat([h, h_0]) @ V.T, n)
        parts = partition.gather(torch.cat([z_0, own, inherited, linear + first]), k)
        z_0, own, inherited, Rz = torch.split(parts, n)
        change = own + inherited
        squared = [t.square().sum(dtype=torch.float64) for t in (own, inherited, z_0, change - Rz, change)]
        found.append(torch.stack(squared))
        if k < partition.depth:
            phi = partition.activation_at(k)
            h_0, h = phi.value(z_0), phi.value(z_0 + change)
            Rh = phi.pulled(Rz, h_0 if phi.from_value else z_0)
    return torch.stack(found, dim=1)
