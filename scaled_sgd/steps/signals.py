"""Forward signals h, backward signals δ and what φ's derivatives come from (theory §1, §2, §8)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scaled_sgd.core.losses import Centered, Loss, apart
from scaled_sgd.core.piecewise_linear import LINEAR
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.divergence import witness, witnesses
from scaled_sgd.steps.networks import Networks

See = Callable[[Sequence[Tensor], int], object]
"""Takes witnesses of z_k, z_{k+1}, …, and k (:meth:`~scaled_sgd.steps.divergence.DivergenceWatch.see`)."""


@dataclass(frozen=True)
class Signals:
    """The signals of a forward and a backward pass; rows are samples.

    Attributes:
        partition: the network and this process's slice of it.
        loss: ℓ.
        y: targets of these samples.
        total: n, the number of samples in every mean (more than in this chunk, if chunked).
        h: h_0..h_{l−1}, each (samples, m_k), complete on every process.
        gate: for k = 1..l−1, what the derivatives of φ at z_k are computed from, (samples, m_k): h_k itself
            if it determines them, else z_k. Where φ is piecewise linear it is positive where z_k is.
        f: the output z_l, complete on every process; z_l − f_0 of a centred network.
        delta: for k = 1..l, this process's columns of δ_k = ∂ℓ_i/∂z_k.
        f_0: what is subtracted from z_l, None if nothing is.
        above: for k = 1..l−1, this process's columns of ∂ℓ_i/∂h_k = α_{k+1} δ_{k+1} W_{k+1}; empty where φ is
            piecewise linear.
    """

    partition: Partition
    loss: Loss
    y: Tensor
    total: int
    h: list[Tensor]
    gate: dict[int, Tensor]
    f: Tensor
    delta: dict[int, Tensor]
    above: dict[int, Tensor]
    f_0: Tensor | None = None

    def losses(self, z: Tensor) -> Tensor:
        """ℓ_i (samples,) of the same samples at other outputs z_l."""
        return self.loss.value(z if self.f_0 is None else z - self.f_0, self.y)

    @property
    def samples(self) -> int:
        """Number of samples in this chunk."""
        return len(self.f)

    @property
    def depth(self) -> int:
        """Number of weight matrices l."""
        return self.partition.depth

    def through_activation(self, t: Tensor, k: int) -> Tensor:
        """φ′(z_k) ∘ t for t of shape (…, samples, m_k)."""
        return self.partition.activation_at(k).pulled(t, self.gate[k])

    def own_through_activation(self, t: Tensor, k: int) -> Tensor:
        """φ′(z_k) ∘ t for this process's columns t of shape (…, samples, width(k))."""
        return self.partition.activation_at(k).pulled(t, self.own_gate(k))

    def own_gate(self, k: int) -> Tensor:
        """This process's columns of ``gate[k]``."""
        return self.partition.own(self.gate[k], k)

    @cached_property
    def bent(self) -> dict[int, Tensor]:
        """φ″(z_k) ∘ ∂ℓ_i/∂h_k for k = 1..l−1, this process's columns; empty where φ is piecewise linear."""
        phi = self.partition.activation_at
        return {k: phi(k).derivatives(self.own_gate(k))[1] * above for k, above in self.above.items()}


@torch.no_grad()
def run_signals(partition: Partition, x: Tensor, y: Tensor, *, loss: Loss, total: int) -> Signals:
    """Forward and backward pass over samples x (samples, m_0) that every process has, without a graph."""
    h, gate, f = forward(partition, x)
    if y.is_floating_point():
        y = y.to(partition.dtype)
    f_0 = y[:, : f.shape[-1]] if isinstance(loss, Centered) else None
    loss, f, y = apart(loss, f, y)
    r = loss.gradient(f, y)
    delta = {partition.depth: partition.own(r, partition.depth).contiguous()}
    above: dict[int, Tensor] = {}
    for k in range(partition.depth, 1, -1):
        below = partition.pulled_back(delta[k], k)
        if partition.activation_at(k - 1).curved:
            above[k - 1] = below.contiguous()
        delta[k - 1] = through_activation(partition, below, gate[k - 1], k - 1)
    return Signals(partition, loss, y, total, h, gate, f, delta, above, f_0)


def forward(
    networks: Networks, x: Tensor, *, see: See | None = None
) -> tuple[list[Tensor], dict[int, Tensor], Tensor]:
    """h_0..h_{l−1}, the gates of k = 1..l−1, and f = z_l; ``see`` gets a witness (…) of each z_k.

    Call it without gradients.
    """
    h = [networks.start(x)]
    gate: dict[int, Tensor] = {}
    # A process may have no samples, of which there is no largest element.
    see = see if x.shape[-2] else None
    early: dict[int, Tensor] = {}
    for k in range(1, networks.depth + 1):
        z, phi = networks.preactivation(h[k - 1], k), networks.activation_at(k)
        # Other gates are z_k, and still there at the end.
        if see is not None and (z.device.type == "cpu" or (phi.from_value and phi != LINEAR)):
            early[k] = witness(z, None if z.ndim == 2 else (-2, -1))
        if k < networks.depth:
            value = phi.value(z)
            h.append(networks.factor(value))
            # Rounding keeps the sign, which is all that a piecewise linear φ needs.
            gate[k] = (value if phi.curved else h[k]) if phi.from_value else z
    if see is not None:
        layers = range(1, networks.depth + 1)
        late = [k for k in layers if k not in early]
        found = early | dict(zip(late, witnesses([gate.get(k, z) for k in late]), strict=True))
        see([found[k] for k in layers], 1)
    return h, gate, z


def backward(networks: Networks, delta: Tensor, gate: Tensor, k: int) -> Tensor:
    """δ_{k−1} = (α_k δ_k W_k) ∘ φ′(z_{k−1}): this process's columns, from its columns of δ_k.

    ``delta`` is (…, samples, width(k)) and ``gate`` (…, samples, m_{k−1}).
    """
    return networks.factor(through_activation(networks, networks.pulled_back(delta, k), gate, k - 1))


def through_activation(networks: Networks, t: Tensor, gate: Tensor, k: int) -> Tensor:
    """φ′(z_k) ∘ t for this process's columns t (…, samples, width(k)), contiguous."""
    return networks.activation_at(k).pulled(t, networks.own(gate, k)).contiguous()
