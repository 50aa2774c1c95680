"""Forward signals h, activation pattern D and backward signals δ of some samples (theory §1, §2)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.core.losses import Loss
from scaled_sgd.core.network import activate
from scaled_sgd.core.parameterization import Activation
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.divergence import witness
from scaled_sgd.steps.networks import Networks


@dataclass(frozen=True)
class Signals:
    """The signals of a forward and a backward pass; rows are samples.

    Attributes:
        partition: the network and this process's slice of it.
        loss: ℓ.
        y: targets of these samples.
        total: n, the number of samples in every mean (more than in this chunk, if chunked).
        h: h_0..h_{l−1}, each (samples, m_k), complete on every process.
        gate: for k = 1..l−1, a tensor (samples, m_k) that is positive where z_k is: h_k itself if it
            determines that sign, else z_k.
        f: the output z_l, complete on every process.
        delta: for k = 1..l, this process's columns of δ_k = ∂ℓ_i/∂z_k.
    """

    partition: Partition
    loss: Loss
    y: Tensor
    total: int
    h: list[Tensor]
    gate: dict[int, Tensor]
    f: Tensor
    delta: dict[int, Tensor]

    @property
    def samples(self) -> int:
        """Number of samples in this chunk."""
        return len(self.f)

    @property
    def depth(self) -> int:
        """Number of weight matrices l."""
        return self.partition.depth

    def through_activation(self, t: Tensor, k: int) -> Tensor:
        """D_k ∘ t for t of shape (…, samples, m_k)."""
        return through_activation(self.partition.model.activation, t, self.gate[k])

    def own_through_activation(self, t: Tensor, k: int) -> Tensor:
        """D_k ∘ t for this process's columns t of shape (…, samples, width(k))."""
        return through_activation(self.partition.model.activation, t, self.partition.own(self.gate[k], k))


def through_activation(phi: Activation, t: Tensor, gate: Tensor) -> Tensor:
    """D ∘ t with D = a + b where ``gate`` is positive, else a − b.

    Implemented as the backward pass of a leaky ReLU, which is one fused pass over t; ``torch.where`` with
    numbers is not, and takes longer than a matrix product of a narrow layer.
    """
    if phi.positive_slope == 0:
        return (phi.negative_slope * t).masked_fill_(gate > 0, 0)
    slope = phi.negative_slope / phi.positive_slope
    chosen: Tensor = torch.ops.aten.leaky_relu_backward(t, gate, slope, False)
    return chosen if phi.positive_slope == 1 else chosen.mul_(phi.positive_slope)


@torch.no_grad()
def run_signals(partition: Partition, x: Tensor, y: Tensor, *, loss: Loss, total: int) -> Signals:
    """Forward and backward pass over samples x (samples, m_0) that every process has, without a graph."""
    h, gate, f = forward(partition, x)
    if y.is_floating_point():
        y = y.to(partition.dtype)
    r = loss.gradient(f, y)
    delta = {partition.depth: partition.own(r, partition.depth).contiguous()}
    for k in range(partition.depth, 1, -1):
        delta[k - 1] = backward(partition, delta[k], gate[k - 1], k)
    return Signals(partition, loss, y, total, h, gate, f, delta)


def forward(
    networks: Networks, x: Tensor, *, see: Callable[[Tensor, int], object] | None = None
) -> tuple[list[Tensor], dict[int, Tensor], Tensor]:
    """h_0..h_{l−1}, the gates of k = 1..l−1, and f = z_l; ``see`` gets a witness (…) of each z_k, and k.

    Call it without gradients.
    """
    phi = networks.activation
    sign_survives = phi.positive_slope > 0 and phi.negative_slope >= 0
    h = [networks.start(x)]
    gate: dict[int, Tensor] = {}
    for k in range(1, networks.depth + 1):
        z = networks.preactivation(h[k - 1], k)
        if see is not None:
            see(witness(z, None if z.ndim == 2 else (-2, -1)), k)
        if k < networks.depth:
            h.append(activate(phi, z))
            gate[k] = h[k] if sign_survives else z
    return h, gate, z


def backward(networks: Networks, delta: Tensor, gate: Tensor, k: int) -> Tensor:
    """δ_{k−1} = (α_k δ_k W_k) ∘ D_{k−1}: this process's columns, from its columns of δ_k.

    ``delta`` is (…, samples, width(k)) and ``gate`` (…, samples, m_{k−1}).
    """
    below = networks.pulled_back(delta, k)
    return through_activation(networks.activation, below, networks.own(gate, k - 1)).contiguous()
