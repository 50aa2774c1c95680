"""Initial weights, drawn by the row, and the outputs that they give (theory §1)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scaled_sgd.core.activations import Activation

_BLOCK_ELEMENTS = 1 << 18
_HELD = 1 << 24
"""Largest number of elements of a layer's signals at a time, and of its weights."""


class DrawnLayer(Protocol):
    """What is read of a layer: α_k, the standard deviation of W_k at step 0, and the type of W_k."""

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
        h = layer.multiplier * (network.activation.value(z) if k > 1 else z)
        fan_in, fan_out = network.widths[k - 1 : k + 1]
        z, step = h.new_empty(len(h), fan_out), max(1, _HELD // fan_in)
        for start in range(0, fan_out, step):
            stop = min(start + step, fan_out)
            W = initial_rows(network.seed, k, start, stop, fan_in, layer.init_std).to(h)
            z[:, start:stop] = h @ W.T
    return z
