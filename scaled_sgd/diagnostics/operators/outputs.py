"""Gauss–Newton blocks of single layers on vectors over samples and outputs (theory §5).  [ours]

Where outputs are linear in each single W_k, H_kk = G_kk = (1/n) J_kᵀ ℓ'' J_k. With ℓ'' = Σ_c s_c s_cᵀ it has
the non-zero eigenvalues of the Gram matrix over samples and outputs

    (α_k²/n) ⟨h_{k−1,i}, h_{k−1,j}⟩ ⟨δ^{(c)}_{k,i}, δ^{(d)}_{k,j}⟩,   δ^{(c)}_l = s_c,

whose products take n m_k (n + 2c) multiplications and pass through no other layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from scaled_sgd.diagnostics.operators.layered import layer_bytes
from scaled_sgd.diagnostics.trace import curvature_root
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.signals import Signals, backward


class OutputVectors:
    """Vectors (n, c) over samples and outputs, complete on every process."""

    identity_dual = True

    def __init__(self, block: "OutputBlock") -> None:
        self._block, delta = block, block.delta
        self.size, self.dtype, self.device = delta.shape[0] * delta.shape[1], delta.dtype, delta.device
        self.weight_bytes = layer_bytes(block.signals.partition, [block.k])

    def dual(self, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
        """The coefficients."""
        return coefficients

    def random(self, seed: int) -> Tensor:
        """Standard normal numbers that depend only on the seed."""
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.randn(self.size, generator=generator, dtype=torch.float64)
        return numbers.to(self.device, self.dtype)

    def sum(self, t: Tensor) -> Tensor:
        """``t``, which is that of all processes."""
        return t

    def expand(self, flat: Tensor) -> list[Tensor]:
        """G_kk's eigenvector of norm 1 for one here: this process's rows, (width(k), m_{k−1})."""
        block = self._block
        rows = block.joined(flat).T @ block.signals.h[block.k - 1]
        square = block.signals.partition.sum(rows.square().sum())
        return [rows / square.sqrt()]


@dataclass(frozen=True)
class OutputBlock:
    """The Gram matrix of layer k. Its products take one sum of n c numbers over the processes.

    Attributes:
        signals: of all samples.
        k: the layer.
        K: (α_k²/n) h_{k−1} h_{k−1}ᵀ, (n, n).
        delta: this process's columns of δ^{(c)}_k, (n, c, width(k)).
    """

    signals: Signals
    k: int
    K: Tensor
    delta: Tensor

    @property
    def vectors(self) -> OutputVectors:
        """What it multiplies."""
        return OutputVectors(self)

    def start(self, seed: int) -> Tensor:
        """A random vector."""
        return self.vectors.random(seed)

    @torch.no_grad()
    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """The product into ``out``."""
        turned = self.K @ self.joined(dual)
        torch.bmm(self.delta, turned[:, :, None], out=out.view(*self.delta.shape[:2], 1))
        return self.signals.partition.sum(out)

    def joined(self, flat: Tensor) -> Tensor:
        """Σ_c v_{i,c} δ^{(c)}_{k,i}, (n, width(k))."""
        n, c, _ = self.delta.shape
        return torch.bmm(flat.view(n, 1, c), self.delta)[:, 0]


@torch.no_grad()
def output_blocks(batch: Minibatch) -> Iterator[OutputBlock]:
    """Those of a minibatch in one piece, from the last layer to the first; holds two layers' δ^{(c)}."""
    s, partition = batch.first, batch.partition
    roots = torch.stack([curvature_root(s, c) for c in range(s.f.shape[1])])
    delta = partition.own(roots, partition.depth)
    for k in range(partition.depth, 0, -1):
        scale = partition.multiplier(k) ** 2 / batch.total
        yield OutputBlock(s, k, scale * (s.h[k - 1] @ s.h[k - 1].T), delta.transpose(0, 1).contiguous())
        if k > 1:
            delta = backward(partition, delta, s.gate[k - 1], k)


def through_outputs(batch: Minibatch, products: int) -> bool:
    """Whether blocks are those of :func:`output_blocks`, and searches there take fewer multiplications."""
    if batch.chunked or batch.partition.activation.curved:
        return False
    partition, n = batch.partition, batch.total
    return output_cost(partition, n, products) < weight_cost(partition, n, products)


def output_cost(partition: Partition, n: int, products: int) -> int:
    """Multiplications per sample: a backward pass for each output, and products there."""
    shapes, c = list(pairwise(partition.widths)), partition.widths[-1]
    passes = sum(c * m_in * m_out for m_in, m_out in shapes[1:])
    return passes + sum(n * m_in + products * m_out * (n + 2 * c) for m_in, m_out in shapes)


def weight_cost(partition: Partition, n: int, products: int) -> int:
    """The same on vectors over a layer's weights, whose products go through all layers above it."""
    total = above = 0
    for m_in, m_out in reversed(list(pairwise(partition.widths))):
        total += products * (2 * above + min(2 * m_in * m_out, n * m_out))
        above += m_in * m_out
    return total
