"""Forward signals h, activation pattern D and backward signals δ of one global minibatch (theory §1, §2)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from scaled_sgd.core.arguments import check_device, check_samples
from scaled_sgd.core.losses import Loss, check_targets, get_loss
from scaled_sgd.core.network import activate
from scaled_sgd.core.numbers import check_integer
from scaled_sgd.core.parameterization import Activation
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.divergence import witness
from scaled_sgd.steps.networks import Networks
from scaled_sgd.steps.statistics import Statistics, gradient_square, square_norms


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


class Minibatch:
    """The global minibatch of all processes, in one piece or in chunks of at most ``chunk_size`` samples.

    Iterating yields the :class:`Signals` of each chunk. Those of an unchunked batch are computed once and
    kept; those of chunks are recomputed each time, so that memory does not grow with the batch.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded.
        x: this process's samples, which are gathered, or all samples if ``whole``.
        y: their targets, in the form that the loss takes.
        loss: ``cross_entropy`` or ``mse``.
        chunk_size: largest number of samples at a time; None: all.
        whole: every process passes the same, full minibatch.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: str,
        chunk_size: int | None = None,
        whole: bool = False,
    ) -> None:
        self.partition = Partition.of(model)
        self.loss = get_loss(loss)
        widths = self.partition.model.widths
        check_samples(x, widths[0], self.partition.device)
        if chunk_size is not None:
            check_integer("chunk_size", chunk_size)
        check_targets(self.loss, y, len(x), widths[-1])
        check_device("y", y, self.partition.device)
        self.x, self.y = x.detach(), y.detach()
        if not whole:
            self.x, self.y = self.partition.ranks.gather_samples(self.x, self.y)
        self.chunk_size = chunk_size or len(self.x)
        self._whole: Signals | None = None

    @property
    def total(self) -> int:
        """Number of samples n over all processes."""
        return len(self.x)

    @cached_property
    def statistics(self) -> Statistics:
        """F, D, R, and ‖G_k‖² on demand, of all samples. Collective if weights are sharded."""
        return _statistics(self)

    @property
    def chunked(self) -> bool:
        """Whether there is more than one chunk."""
        return self.chunk_size < self.total

    def __iter__(self) -> Iterator[Signals]:
        if self.chunked:
            for x, y in zip(*(torch.split(t, self.chunk_size) for t in (self.x, self.y)), strict=True):
                yield run_signals(self.partition, x, y, loss=self.loss, total=self.total)
        else:
            yield self.first

    @property
    def first(self) -> Signals:
        """The signals of the first chunk, which is the full batch if there is only one."""
        if self.chunked:
            return next(iter(self))
        if self._whole is None:
            self._whole = run_signals(self.partition, self.x, self.y, loss=self.loss, total=self.total)
        return self._whole


@torch.no_grad()
def _statistics(batch: Minibatch) -> Statistics:
    partition, n = batch.partition, batch.total
    F, D = (torch.zeros_like(partition.alpha) for _ in range(2))
    for signals in batch:
        F += square_norms(signals.h)
        D += square_norms([signals.delta[k] for k in range(1, partition.depth + 1)])
    F, D = F * partition.alpha_squares / n, partition.sum(D) / n
    layers = slice(0, partition.depth)
    return Statistics(layers, partition.depth, F, D, D[-1], partition.omega, lambda: _gradient_squares(batch))


@torch.no_grad()
def _gradient_squares(batch: Minibatch) -> Tensor:
    """‖G_k‖_F² (l,), float64; for chunks from the rows of their sum."""
    partition, layers = batch.partition, range(1, batch.partition.depth + 1)
    if batch.chunked:
        G = gradient_rows(batch)
        return partition.sum(square_norms([G[k] for k in layers]))
    signals = batch.first
    squares = torch.stack([gradient_square(signals.h[k - 1], signals.delta[k]) for k in layers])
    return partition.sum(squares) * (partition.alpha / batch.total).square()


@torch.no_grad()
def gradient_rows(batch: Minibatch) -> dict[int, Tensor]:
    """This process's rows of G_k = (α_k/n) δ_kᵀ h_{k−1}, for k = 1..l."""
    partition = batch.partition
    G: dict[int, Tensor] = {}
    for signals in batch:
        for k in range(1, partition.depth + 1):
            part = signals.delta[k].T @ signals.h[k - 1]
            G[k] = G[k].add_(part) if k in G else part
    return {k: rows.mul_(partition.multiplier(k) / batch.total) for k, rows in G.items()}


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
