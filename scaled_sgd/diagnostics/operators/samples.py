"""Factor space over replicas, distributed by samples: one collective per product.  [ours]

Every process holds the rows of P_k and Q_k of some samples. The R-operator works sample by sample without
communication; a dual needs all processes' coefficients once, X_own = (h_own hᵀ) P + (h_own Qᵀ) δ and
Y_own = (δ_own Pᵀ) h + (δ_own δᵀ) Q. The distribution by rows of :class:`RowVectors` communicates at
every layer, which shards need and replicas do not.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scaled_sgd.diagnostics.operators.blocks import FactorBlock, dense_cost, factor_cost
from scaled_sgd.diagnostics.operators.layered import LayeredVectors, layer_bytes
from scaled_sgd.diagnostics.operators.weights import (
    RowVectors,
    SpaceName,
    over_length,
    random_factors,
)
from scaled_sgd.parallel import Ranks, even_offsets, is_replica
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.signals import Signals, run_signals


class SampleBlock(FactorBlock):
    """A layer's P and Q of this process's samples; ``h`` and ``delta`` are those of all samples."""

    def __init__(self, signals: Signals, k: int, h: Tensor, delta: Tensor, *, both: bool) -> None:
        self._lay_out(signals, k, both=both)
        self._h, self._delta = h, delta
        self.K_h = signals.h[k - 1] @ h.T
        self.K_delta = signals.delta[k] @ delta.T if both else None
        square = self.K_h * (signals.delta[k] @ delta.T if self.K_delta is None else self.K_delta)
        self.gradient_square = square.sum() * (signals.partition.multiplier(k) / signals.total) ** 2

    def dual_from_all(self, P: Tensor, Q: Tensor, out: Tensor) -> None:
        """(X, Y) of this process's samples into ``out``, from all samples' P and Q."""
        s, X, Y = self._signals, *self.split(out)
        torch.mm(self.K_h, P, out=X)
        if self.K_delta is not None:
            X.addmm_(s.h[self.k - 1] @ Q.T, self._delta)
            torch.mm(self.K_delta, Q, out=Y)
            Y.addmm_(s.delta[self.k] @ P.T, self._h)

    def some_rows(self, P: Tensor, Q: Tensor, rows: slice) -> Tensor:
        """Rows of V_k = Pᵀh + δᵀQ, from all samples' P and Q."""
        V = P[:, rows].T @ self._h
        return V if self.K_delta is None else V.addmm_(self._delta[:, rows].T, Q)

    def drawn(self, u_P: Tensor, v_P: Tensor, u_Q: Tensor, v_Q: Tensor, own: slice) -> tuple[Tensor, Tensor]:
        """This process's rows of P = u_P v_Pᵀ and Q = u_Q v_Qᵀ, each scaled to a term of norm 1."""
        P = torch.outer(over_length(u_P, (self._h.T @ u_P).norm())[own], v_P)
        Q = torch.outer(over_length(u_Q, (self._delta.T @ u_Q).norm())[own], v_Q)
        return P, Q


class SampleVectors(LayeredVectors):
    """All layers in factors, for replicas on several processes. Products take no communication."""

    identity_dual = False
    blocks: list[SampleBlock]

    def __init__(self, batch: Minibatch, *, both: bool = True, layers: Sequence[int] | None = None) -> None:
        self.partition, self._ranks = batch.partition, batch.partition.ranks
        widths = self.partition.model.widths
        layers = range(1, self.partition.depth + 1) if layers is None else layers
        self.weight_bytes = layer_bytes(self.partition, layers)
        alone = replace(self.partition, ranks=Ranks.alone(), offsets=tuple((0, m) for m in widths))
        offsets = even_offsets(batch.total, self._ranks.size)
        self._sizes = [b - a for a, b in itertools.pairwise(offsets)]
        self._own = slice(offsets[self._ranks.rank], offsets[self._ranks.rank + 1])
        x, y = batch.x[self._own], batch.targets[self._own]
        self._signals = s = run_signals(alone, x, y, loss=batch.loss, total=batch.total)
        self.chunks = (s,)
        self.blocks = [
            SampleBlock(
                s,
                k,
                self._ranks.gather(s.h[k - 1], self._sizes),
                self._ranks.gather(s.delta[k], self._sizes),
                both=both and k > layers[0],
            )
            for k in layers
        ]
        self._columns = [(widths[b.k], widths[b.k - 1] if b.both else 0) for b in self.blocks]
        self.size = sum(block.size for block in self.blocks)

    @torch.no_grad()
    def dual(self, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
        """The dual of a vector, after one gather of coefficients."""
        out = torch.empty_like(coefficients) if out is None else out
        layers = zip(self.blocks, self._gather(coefficients), self.split(out), strict=True)
        for block, (P, Q), to in layers:
            block.dual_from_all(P, Q, to)
        return out

    def _gather(self, coefficients: Tensor) -> list[tuple[Tensor, Tensor]]:
        """All samples' P and Q of every layer."""
        total = sum(p + q for p, q in self._columns)
        lengths = [n * total for n in self._sizes]
        flats = torch.split(self._ranks.gather(coefficients, lengths), lengths)
        widths = [m for pair in self._columns for m in pair]
        parts = [
            [t.view(n, m) for t, m in zip(torch.split(flat, [n * m for m in widths]), widths, strict=True)]
            for flat, n in zip(flats, self._sizes, strict=True)
        ]
        whole = [torch.cat(rows) for rows in zip(*parts, strict=True)]
        return list(zip(whole[::2], whole[1::2], strict=True))

    def _gradient_square(self) -> Tensor:
        return self.sum(torch.stack([block.gradient_square for block in self.blocks]).sum())

    @torch.no_grad()
    def _draw(self, seed: int, roots: Sequence[float], gradient_weight: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        n, s = sum(self._sizes), self._signals
        flat = torch.empty(self.size, dtype=self.dtype, device=self.device)
        widths, layers = self.partition.model.widths, [block.k for block in self.blocks]
        sizes = [(n, n, widths[k], widths[k - 1]) for k in layers]
        drawn = random_factors(sizes, generator, like=flat)
        for block, v in zip(self.blocks, self.split(flat), strict=True):
            k = block.k
            u_P, u_Q, v_P, v_Q = next(drawn)
            P, Q = block.drawn(u_P, v_P, u_Q, v_Q, self._own)
            if block.both:
                block.put_forward(s, v, Q, 1.0, 0.0)
            scale = roots[k - 1] * self.partition.multiplier(k) / s.total
            block.put_backward(s, v, P.add_(s.delta[k] * (scale * gradient_weight)), 1.0, float(block.both))
        return flat

    @torch.no_grad()
    def expand(self, flat: Tensor) -> list[Tensor]:
        """A vector's layers in weight space: this process's rows, (width(k), m_{k−1}) each."""
        return [
            block.some_rows(P, Q, self.partition.columns(block.k))
            for block, (P, Q) in zip(self.blocks, self._gather(flat), strict=True)
        ]


def choose_vectors(
    batch: Minibatch, *, space: SpaceName = "auto", both: bool = True, layers: Sequence[int] | None = None
) -> RowVectors | SampleVectors:
    """By samples for replicas on several processes if factors cost little more than the best mixture."""
    partition = batch.partition
    shared = partition.ranks.size > 1 and batch.total >= partition.ranks.size and not batch.chunked
    if shared and space in ("auto", "factor") and is_replica(partition.model):
        widths, n = partition.model.widths, batch.total
        through = [0.0, 0.0]
        first, *_ = layers = range(1, partition.depth + 1) if layers is None else layers
        for k in range(first, partition.depth + 1):
            m_in, m_out = widths[k - 1 : k + 1]
            two_sided = both and k > first
            factored = factor_cost(m_in, m_out, n, both=two_sided) if k in layers else 0
            dense = dense_cost(m_in, m_out, both=two_sided) if k in layers else 0
            weights = 2 * m_in * m_out if k > first else 0
            through[0] += weights + factored
            through[1] += weights + min(factored, dense)
        if space == "factor" or through[0] <= 1.25 * through[1]:
            return SampleVectors(batch, both=both, layers=layers)
    return RowVectors(batch, space=space, both=both, layers=layers)
