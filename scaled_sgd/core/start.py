"""Initial weights, drawn by the row, and the outputs that they give (theory §1)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scaled_sgd.core.activations import Activation
from scaled_sgd.core.factored import Factored
from scaled_sgd.core.parameterization import layer_constants

_BLOCK_ELEMENTS = 1 << 18
_HELD = 1 << 24
"""Largest number of elements of a layer's signals at a time, and of its weights."""


class DrawnLayer(Protocol):
    """What is read of a layer: m_{k−1}, α_k, the standard deviation of drawn entries, and the type of W_k."""

    @property
    def in_features(self) -> int: ...  # noqa: D102
    @property
    def multiplier(self) -> float: ...  # noqa: D102
    @property
    def init_std(self) -> float: ...  # noqa: D102
    @property
    def weight(self) -> Tensor: ...  # noqa: D102


class DrawnNetwork(Protocol):
    """What is read of a network; it may be on ``meta``, or trained."""

    @property
    def widths(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def activation(self) -> Activation: ...  # noqa: D102
    @property
    def parameterization(self) -> str: ...  # noqa: D102
    @property
    def factored(self) -> Factored: ...  # noqa: D102
    @property
    def factor_start(self) -> str: ...  # noqa: D102
    def activation_at(self, k: int) -> Activation: ...  # noqa: D102
    @property
    def scaled_layers(self) -> Sequence[DrawnLayer]: ...  # noqa: D102


def initial_rows(seed: int, k: int, start: int, stop: int, fan_in: int, std: float) -> Tensor:
    """Rows ``start`` to ``stop`` of W_k at step 0: float32, N(0, std²), shape (stop − start, fan_in).

    Rows are drawn in fixed blocks, each from its own generator keyed by (seed, layer, block), so that any
    process can make any slice of a layer without the rest, and weights do not depend on processes,
    sharding, devices or precision.
    """
    rows_per_block = max(1, _BLOCK_ELEMENTS // fan_in)
    rows = np.empty((stop - start, fan_in), dtype=np.float32)

    def draw(block: int) -> None:
        generator = np.random.default_rng([seed, k, block])
        first = block * rows_per_block
        # A block's first rows do not depend on how many follow.
        drawn = min(rows_per_block, stop - first)
        values = generator.standard_normal((drawn, fan_in), dtype=np.float32)
        rows[max(first, start) - start : first + drawn - start] = values[max(start - first, 0) :]

    blocks = range(start // rows_per_block, -(-stop // rows_per_block))
    threads = min(len(blocks), torch.get_num_threads())
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(draw, blocks))
    else:
        for block in blocks:
            draw(block)
    return torch.from_numpy(rows).mul_(std)


def rows_at_start(network: DrawnNetwork, k: int, start: int, stop: int) -> Tensor:
    """Rows ``start`` to ``stop`` of the k-th weight matrix at step 0: float32, (stop − start, m_{k−1})."""
    factored, layers = network.factored, network.scaled_layers
    j, layer = factored.ordinary_layer(k), layers[k - 1]
    behind = k - 1 in factored.pairs
    if not (behind or k in factored.pairs) or network.factor_start == "drawn":
        # The last layer, which comes last, never has factors: none stay in memory after it.
        _spectral_pair.cache_clear()
        # A second factor has numbers of its own.
        key = j + factored.depth if behind else j
        return initial_rows(network.seed, key, start, stop, layer.in_features, layer.init_std)
    assert factored.rank is not None
    constants = layer_constants(network.parameterization, j, factored.ordinary)
    first = k - 1 if behind else k
    pair = _spectral_pair(
        network.seed,
        j,
        factored.ordinary[j - 1],
        factored.ordinary[j],
        constants.init_std * (network.activation.scale if j > 1 else 1.0),
        constants.multiplier,
        (layers[first - 1].multiplier, layers[first].multiplier),
        factored.rank,
    )
    return pair[behind][start:stop].clone(memory_format=torch.contiguous_format)


@lru_cache(maxsize=1)
def _spectral_pair(
    seed: int,
    j: int,
    fan_in: int,
    fan_out: int,
    std: float,
    alpha: float,
    alphas: tuple[float, float],
    r: int,
) -> tuple[Tensor, Tensor]:
    """Weights Vᵀ (r, m_{j−1}) and U (m_j, r), float32, with α_U U α_V Vᵀ ≈ α_j W_j of step 0.

    In float64, so that their rounding to float32 hardly depends on the machine.
    """
    W = initial_rows(seed, j, 0, fan_out, fan_in, std).double()
    U, V = spectral_factors(W.mul_(alpha), r)
    return (V.T / alphas[0]).float(), (U / alphas[1]).float()


def spectral_factors(W: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U = Ũ √Σ (m, r) and V = Ṽ √Σ (m′, r) of the SVD Ũ Σ Ṽᵀ of W (m, m′), truncated to the rank.

    U Vᵀ is the best approximation of W of this rank (arXiv 2105.01029). By the eigenvectors of the smaller
    of W Wᵀ and Wᵀ W; the largest entry of each is positive, so that all processes find the same factors.
    """
    if W.shape[0] > W.shape[1]:
        V, U = spectral_factors(W.T, rank)
        return U, V
    _, vectors = torch.linalg.eigh(W @ W.T)
    vectors = vectors[:, -rank:].flip(1)
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    others = W.T @ vectors
    roots = torch.linalg.vector_norm(others, dim=0).sqrt()
    return vectors * roots, others / torch.where(roots > 0, roots, 1.0)


@torch.no_grad()
def outputs_at_start(network: DrawnNetwork, x: Tensor) -> Tensor:
    """f_0 (…, m_l) of samples x (…, m_0), in the type of the weights and on the device of x.

    Weights of step 0 are drawn again, so that no second network is held.
    """
    rows = x.reshape(-1, x.shape[-1]).to(network.scaled_layers[0].weight.dtype)
    parts = torch.split(rows, max(1, _HELD // max(network.widths)))
    return torch.cat([_outputs(network, part) for part in parts]).view(*x.shape[:-1], network.widths[-1])


def _outputs(network: DrawnNetwork, z: Tensor) -> Tensor:
    for k, layer in enumerate(network.scaled_layers, start=1):
        h = layer.multiplier * (network.activation_at(k - 1).value(z) if k > 1 else z)
        fan_in, fan_out = network.widths[k - 1 : k + 1]
        z, step = h.new_empty(len(h), fan_out), max(1, _HELD // fan_in)
        for start in range(0, fan_out, step):
            stop = min(start + step, fan_out)
            W = rows_at_start(network, k, start, stop).to(h)
            z[:, start:stop] = h @ W.T
    return z
