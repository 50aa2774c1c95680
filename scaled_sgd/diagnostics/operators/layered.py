"""What vectors over weights have in common, by rows or by samples: their layers, and products (theory §5)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from scaled_sgd.diagnostics.operators.blocks import Block
from scaled_sgd.diagnostics.operators.r_operator import Part, Slot, r_operator
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.signals import Signals


class LayeredVectors:
    """Flat vectors over the weights of a network: one block for each layer, one after the other.

    Attributes:
        partition: the network and this process's slice of it.
        chunks: signals of all samples that products are summed over.
        blocks: how layers are stored.
        size: length of a vector on this process.
        weight_bytes: size of these layers' weights, over all processes.
    """

    partition: Partition
    chunks: Iterable[Signals]
    blocks: Sequence[Block]
    size: int
    weight_bytes: int

    @property
    def dtype(self) -> torch.dtype:
        """That of the computations."""
        return self.partition.dtype

    @property
    def device(self) -> torch.device:
        """Where vectors are."""
        return self.partition.device

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """A vector's layers, as flat views."""
        return torch.split(flat, [block.size for block in self.blocks])

    def sum(self, t: Tensor) -> Tensor:
        """Sum ``t`` over the processes, in place."""
        return self.partition.sum(t)

    def squares(self, coefficients: Tensor, dual: Tensor) -> Tensor:
        """‖V_k‖² of each layer of a vector, (layers,), float64."""
        parts = zip(self.split(coefficients), self.split(dual), strict=True)
        return self.sum(torch.stack([torch.dot(a, b).double() for a, b in parts])).clamp(min=0)

    @torch.no_grad()
    def product(self, part: Part, roots: Sequence[float], dual: Tensor, out: Tensor) -> Tensor:
        """Coefficients of Ξ^{1/2} C Ξ^{1/2} times the vector whose dual is given, into ``out``."""
        slots = slots_of(self.blocks, self.split(dual), self.split(out), roots)
        for i, signals in enumerate(self.chunks):
            r_operator(signals, slots, part=part, onto=float(i > 0))
        return out

    @torch.no_grad()
    def gradient(self, roots: Sequence[float]) -> Tensor:
        """Ξ^{1/2} times the gradient."""
        flat = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for i, s in enumerate(self.chunks):
            for block, v in zip(self.blocks, self.split(flat), strict=True):
                scale = roots[block.k - 1] * self.partition.multiplier(block.k) / s.total
                block.put_backward(s, v, s.delta[block.k], scale, float(i > 0))
        return flat

    def near_gradient(self, seed: int, roots: Sequence[float]) -> Tensor:
        """Ξ^{1/2} times the gradient, plus a random vector of about the gradient's norm, up to a factor.

        The gradient leans towards the top eigenvectors; the random part ensures that none is missed.
        """
        tiny = torch.finfo(self.dtype).tiny
        length = self._gradient_square().to(self.dtype).clamp(min=tiny).sqrt()
        return self._draw(seed, roots, (2 * len(self.blocks)) ** 0.5 / length)

    def random(self, seed: int) -> Tensor:
        """P_kᵀ h_{k−1} + δ_kᵀ Q_k with random P and Q that depend only on the seed, in any space.

        P and Q are outer products of Gaussian vectors: cheap, and with the second moments of Gaussian
        matrices up to a factor, so that no direction within a layer is favoured. Each term has norm 1.
        """
        none = torch.zeros((), dtype=self.dtype, device=self.device)
        return self._draw(seed, [0.0] * self.partition.depth, none)

    def dual(self, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
        """The dual of a vector."""
        raise NotImplementedError

    def _gradient_square(self) -> Tensor:
        """‖∇L‖² over these layers, ()."""
        raise NotImplementedError

    def _draw(self, seed: int, roots: Sequence[float], gradient_weight: Tensor) -> Tensor:
        """Random terms, plus Ξ^{1/2} times the gradient times a weight."""
        raise NotImplementedError


def layer_bytes(partition: Partition, layers: Sequence[int]) -> int:
    """Size of the weights of some layers, over all processes."""
    widths = partition.model.widths
    return sum(widths[k - 1] * widths[k] for k in layers) * (torch.finfo(partition.dtype).bits // 8)


def slots_of(
    blocks: Sequence[Block], duals: Sequence[Tensor], outs: Sequence[Tensor], roots: Sequence[float]
) -> list[Slot]:
    """The slots of a product, from √ξ of all layers."""
    return [
        Slot(block, dual, out, roots[block.k - 1])
        for block, dual, out in zip(blocks, duals, outs, strict=True)
    ]
