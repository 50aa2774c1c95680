"""Vectors over weights, by rows, with dense or factored layers (theory §5, §6)."""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.start import initial_rows
from scaled_sgd.diagnostics.operators.blocks import Block, DenseBlock, FactorBlock, dense_cost, factor_cost
from scaled_sgd.diagnostics.operators.layered import LayeredVectors, layer_bytes
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.statistics import square_norms

SpaceName = Literal["auto", "dense", "factor"]


def check_space(name: object) -> None:
    """Refuse anything but a :data:`SpaceName`."""
    if name not in get_args(SpaceName):
        raise UserError(f"space: {name!r} is unknown; allowed: {', '.join(get_args(SpaceName))}")


class RowVectors(LayeredVectors):
    """Flat vectors over the weights of a network, by rows of every W_k.

    Set up once for any number of products. A vector concatenates this process's blocks of all layers.
    ``space`` selects how layers are stored: ``dense`` as they are, ``factor``
    as P_kᵀ h + δ_kᵀ Q_k, ``auto`` whichever makes a layer's products cheaper. Every eigenvector with
    a non-zero eigenvalue can be written in factors, so nothing is approximated.

    Args:
        batch: the minibatch.
        space: as above.
        both: whether the operators have terms δ_kᵀ Q_k; Gauss–Newton ones have not.
        layers: those that vectors have, in ascending order; the lowest has no terms δ_kᵀ Q_k. None: all.

    Attributes:
        size: length of a vector on this process.
        identity_dual: whether coefficients and duals are equal (all layers dense).

    Raises:
        UserError: an unknown space, or factors with a chunked minibatch.
    """

    def __init__(
        self,
        batch: Minibatch,
        *,
        space: SpaceName = "auto",
        both: bool = True,
        layers: Sequence[int] | None = None,
    ) -> None:
        check_space(space)
        if space == "factor" and batch.chunked:
            raise UserError("space: 'factor' needs the batch in one piece; allowed with chunk_size: 'dense'")
        self.batch = self.chunks = batch
        self.partition = batch.partition
        layers = range(1, self.partition.depth + 1) if layers is None else layers
        self.blocks = [self._block(k, space, both=both and k > layers[0]) for k in layers]
        self.size = sum(block.size for block in self.blocks)
        self.weight_bytes = layer_bytes(self.partition, layers)
        self.identity_dual = all(isinstance(block, DenseBlock) for block in self.blocks)

    def _block(self, k: int, space: SpaceName, *, both: bool) -> Block:
        m_in, m_out = self.partition.model.widths[k - 1 : k + 1]
        factored = factor_cost(m_in, m_out, self.batch.total, both=both)
        cheaper = not self.batch.chunked and factored < dense_cost(m_in, m_out, both=both)
        if space == "factor" or (space == "auto" and cheaper):
            return FactorBlock(self.batch.first, k, both=both)
        return DenseBlock(self.partition, k, both=both)

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

    def _gradient_square(self) -> Tensor:
        squares = self.batch.statistics.gradient_squares
        return torch.stack([squares[block.k - 1] for block in self.blocks]).sum()

    @torch.no_grad()
    def _draw(self, seed: int, roots: Sequence[float], gradient_weight: Tensor) -> Tensor:
        s, widths = self.batch.first, self.partition.model.widths
        generator = torch.Generator().manual_seed(seed)
        flat = torch.empty(self.size, dtype=self.dtype, device=self.device)
        n, layers = s.samples, [block.k for block in self.blocks]
        sizes = [(n, n, widths[k], widths[k - 1]) for k in layers]
        drawn = list(random_factors(sizes, generator, like=flat))
        terms = [s.h[k - 1].T @ u_P for k, (u_P, *_) in zip(layers, drawn, strict=True)]
        two_sided = [place for place, block in enumerate(self.blocks) if block.both]
        terms += [s.delta[layers[place]].T @ drawn[place][1] for place in two_sided]
        squares = square_norms([t[None] for t in terms])
        if two_sided:
            self.sum(squares[len(layers) :])
        # A term that is 0 is multiplied by 0.
        shares = squares.to(self.dtype).clamp(min=torch.finfo(self.dtype).tiny).rsqrt().unbind()
        shares_Q = dict(zip(two_sided, shares[len(layers) :], strict=True))
        parts = zip(self.blocks, self.split(flat), drawn, strict=True)
        for place, (block, v, (u_P, u_Q, v_P, v_Q)) in enumerate(parts):
            k = block.k
            if block.both:
                block.put_forward(s, v, torch.outer(u_Q * shares_Q[place], v_Q), 1.0, 0.0)
            P = torch.outer(u_P * shares[place], self.partition.own(v_P, k))
            scale = roots[k - 1] * self.partition.multiplier(k) / s.total
            P.add_(s.delta[k] * (scale * gradient_weight))
            block.put_backward(s, v, P, 1.0, float(block.both))
        return flat

    def gaussian(self, seed: int) -> Tensor:
        """Standard normal weights, the same for any sharding; for dense spaces."""
        layers = []
        for block in self.blocks:
            k = block.k
            own, fan_in = self.partition.columns(k), self.partition.model.widths[k - 1]
            layers.append(initial_rows(seed, k, own.start, own.stop, fan_in, 1.0).reshape(-1))
        return torch.cat(layers).to(self.device, self.dtype)

    @torch.no_grad()
    def expand(self, flat: Tensor) -> list[Tensor]:
        """A vector's layers in weight space: this process's rows, (width(k), m_{k−1}) each."""
        return [
            block.rows(v)
            if isinstance(block, FactorBlock)
            else v.view(self.partition.width(block.k), self.partition.model.widths[block.k - 1])
            for block, v in zip(self.blocks, self.split(flat), strict=True)
        ]


def random_factors(
    sizes: Sequence[tuple[int, int, int, int]], generator: torch.Generator, *, like: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """Standard normal u_P and u_Q, then v_P and v_Q of norm 1, layer by layer.

    Drawn one after the other on the host, and moved to the device of ``like`` in one copy.
    """
    drawn: list[Tensor] = []
    for layer in sizes:
        four = [torch.randn(size, generator=generator, dtype=torch.float64) for size in layer]
        drawn += [*four[:2], *(unit(t) for t in four[2:])]
    moved = torch.cat(drawn).to(like.device, like.dtype)
    return zip(*[iter(torch.split(moved, [size for layer in sizes for size in layer]))] * 4, strict=True)


def over_length(t: Tensor, length: Tensor) -> Tensor:
    """``t`` divided by ``length``, which may be 0 if ``t`` is later multiplied by 0."""
    return t / length.clamp(min=torch.finfo(t.dtype).tiny ** 0.5)


def unit(t: Tensor) -> Tensor:
    """``t`` scaled to norm 1."""
    return over_length(t, t.norm())
