"""Weight-space vectors with dense or factored layers, and Hessian products on them (theory §5)."""

from typing import Literal, get_args

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import initial_rows
from scaled_sgd.diagnostics.operators.blocks import Block, DenseBlock, FactorBlock, dense_cost, factor_cost
from scaled_sgd.diagnostics.operators.r_operator import r_operator
from scaled_sgd.steps.minibatch import Minibatch

SpaceName = Literal["auto", "dense", "factor"]


def check_space(name: object) -> None:
    """Refuse anything but a :data:`SpaceName`."""
    if name not in get_args(SpaceName):
        raise UserError(f"space: {name!r} is unknown; allowed: {', '.join(get_args(SpaceName))}")


class HessianSpace:
    """Flat vectors over the weights of a network, and Ξ^{1/2} H Ξ^{1/2} of a minibatch on them.

    Set up once for any number of products. A vector concatenates this process's blocks of all layers.
    ``space`` selects how layers are stored: ``dense`` as they are, ``factor``
    as P_kᵀ h + δ_kᵀ Q_k, ``auto`` whichever makes a layer's products cheaper. Every eigenvector with
    a non-zero eigenvalue can be written in factors, so nothing is approximated.

    Attributes:
        size: length of a vector on this process.
        identity_dual: whether coefficients and duals are equal (all layers dense).

    Raises:
        UserError: an unknown space, or factors with a chunked minibatch.
    """

    def __init__(self, batch: Minibatch, xi: Tensor | None = None, *, space: SpaceName = "auto") -> None:
        check_space(space)
        if space == "factor" and batch.chunked:
            raise UserError("space: 'factor' needs the batch in one piece; allowed with chunk_size: 'dense'")
        self.batch = batch
        self.partition = batch.partition
        self.dtype, self.device = self.partition.dtype, self.partition.device
        self._roots = [1.0] * self.partition.depth if xi is None else xi.sqrt().tolist()
        self.blocks = [self._block(k, space) for k in range(1, self.partition.depth + 1)]
        self._sizes = [block.size for block in self.blocks]
        self.size = sum(self._sizes)
        self.weight_bytes = self.partition.weight_bytes
        self.identity_dual = all(isinstance(block, DenseBlock) for block in self.blocks)

    def _block(self, k: int, space: SpaceName) -> Block:
        m_in, m_out = self.partition.model.widths[k - 1 : k + 1]
        factored = factor_cost(m_in, m_out, self.batch.total, first=k == 1)
        cheaper = not self.batch.chunked and factored < dense_cost(m_in, m_out, first=k == 1)
        if space == "factor" or (space == "auto" and cheaper):
            return FactorBlock(self.batch.first, k)
        return DenseBlock(self.partition, k)

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """A vector's layers, as flat views."""
        return torch.split(flat, self._sizes)

    def sum(self, t: Tensor) -> Tensor:
        """Sum ``t`` over the processes, in place."""
        return self.partition.sum(t)

    @torch.no_grad()
    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """Coefficients of the product with the vector whose dual is given, into ``out``."""
        for i, signals in enumerate(self.batch):
            onto = float(i > 0)
            r_operator(signals, self.blocks, self.split(dual), self.split(out), self._roots, onto=onto)
        return out

    @torch.no_grad()
    def dual(self, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
        """The dual of a vector: the coefficients themselves if all layers are dense."""
        if self.identity_dual:
            return coefficients
        out = torch.empty_like(coefficients) if out is None else out
        layers = list(zip(self.blocks, self.split(coefficients), self.split(out), strict=True))
        factored = [(block, v, to) for block, v, to in layers if isinstance(block, FactorBlock)]
        n = self.batch.total
        crosses = torch.empty(len(factored), 2, n, n, dtype=self.dtype, device=self.device)
        for (block, v, _), cross in zip(factored, crosses, strict=True):
            block.cross(v, cross)
        self.sum(crosses)
        for (block, v, to), cross in zip(factored, crosses, strict=True):
            block.dual(v, cross, to)
        for whole, v, to in layers:
            if isinstance(whole, DenseBlock):
                to.copy_(v)
        return out

    def start(self, seed: int) -> Tensor:
        """A start vector for Lanczos: the gradient plus a random vector of about the same norm.

        The gradient leans towards the top eigenvectors; the random part ensures that none is missed.
        """
        tiny = torch.finfo(self.dtype).tiny
        length = self.batch.statistics.gradient_squares.sum().to(self.dtype).clamp(min=tiny).sqrt()
        return self._draw(seed, (2 * len(self.blocks)) ** 0.5 / length)

    def random(self, seed: int) -> Tensor:
        """P_kᵀ h_{k−1} + δ_kᵀ Q_k with random P and Q that depend only on the seed, in any space.

        P and Q are outer products of Gaussian vectors: cheap, and with the second moments of Gaussian
        matrices up to a factor, so that no direction within a layer is favoured. Each term has norm 1.
        """
        return self._draw(seed, torch.zeros((), dtype=self.dtype, device=self.device))

    @torch.no_grad()
    def _draw(self, seed: int, gradient_weight: Tensor) -> Tensor:
        s, widths = self.batch.first, self.partition.model.widths
        generator = torch.Generator().manual_seed(seed)
        flat = torch.empty(self.size, dtype=self.dtype, device=self.device)
        for block, v, root in zip(self.blocks, self.split(flat), self._roots, strict=True):
            k = block.k
            u_P, u_Q = (self._normal(s.samples, generator) for _ in range(2))
            v_P, v_Q = (unit(self._normal(widths[j], generator)) for j in (k, k - 1))
            if k > 1:
                length = self.sum((s.delta[k].T @ u_Q).square().sum()).sqrt()
                block.put_forward(s, v, torch.outer(over_length(u_Q, length), v_Q), 1.0, 0.0)
            P = torch.outer(over_length(u_P, (s.h[k - 1].T @ u_P).norm()), self.partition.own(v_P, k))
            scale = root * self.partition.multiplier(k) / s.total
            block.put_backward(s, v, P.add_(s.delta[k] * (scale * gradient_weight)), 1.0, 0.0)
        return flat

    def gaussian(self, seed: int) -> Tensor:
        """Standard normal weights, the same for any sharding; for dense spaces."""
        layers = []
        for block in self.blocks:
            k = block.k
            own, fan_in = self.partition.columns(k), self.partition.model.widths[k - 1]
            layers.append(initial_rows(seed, k, own.start, own.stop, fan_in, 1.0).reshape(-1))
        return torch.cat(layers).to(self.device, self.dtype)

    def _normal(self, length: int, generator: torch.Generator) -> Tensor:
        numbers = torch.randn(length, generator=generator, dtype=torch.float64)
        return numbers.to(self.device, self.dtype)

    @torch.no_grad()
    def expand(self, flat: Tensor) -> list[Tensor]:
        """A vector's layers in weight space: this process's rows, (width(k), m_{k−1}) each."""
        return [
            block.rows(v)
            if isinstance(block, FactorBlock)
            else v.view(self.partition.width(block.k), self.partition.model.widths[block.k - 1])
            for block, v in zip(self.blocks, self.split(flat), strict=True)
        ]


def over_length(t: Tensor, length: Tensor) -> Tensor:
    """``t`` divided by ``length``, which may be 0 if ``t`` is later multiplied by 0."""
    return t / length.clamp(min=torch.finfo(t.dtype).tiny ** 0.5)


def unit(t: Tensor) -> Tensor:
    """``t`` scaled to norm 1."""
    return over_length(t, t.norm())
