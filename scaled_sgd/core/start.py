"""Outputs at step 0, from initial weights that are drawn again: no second network is held (theory §1)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scaled_sgd.core.network import HomogeneousMLP

_HELD = 1 << 24
"""Largest number of elements of a layer's signals at a time, and of its weights."""


@torch.no_grad()
def outputs_at_start(network: "HomogeneousMLP", x: Tensor) -> Tensor:
    """f_0 (…, m_l) of samples x (…, m_0), in the type of the weights and on the device of x.

    ``network`` may be on ``meta``, or trained: only its architecture and seed are read.
    """
    rows = x.reshape(-1, x.shape[-1]).to(network.scaled_layers[0].weight.dtype)
    parts = torch.split(rows, max(1, _HELD // max(network.widths)))
    return torch.cat([_outputs(network, part) for part in parts]).view(*x.shape[:-1], network.widths[-1])


def _outputs(network: "HomogeneousMLP", z: Tensor) -> Tensor:
    from scaled_sgd.core.network import initial_rows

    for k, layer in enumerate(network.scaled_layers, start=1):
        h = layer.multiplier * (network.apply_activation(z) if k > 1 else z)
        fan_in, fan_out = network.widths[k - 1 : k + 1]
        z, step = h.new_empty(len(h), fan_out), max(1, _HELD // fan_in)
        for start in range(0, fan_out, step):
            stop = min(start + step, fan_out)
            W = initial_rows(network.seed, k, start, stop, fan_in, layer.init_std).to(h)
            z[:, start:stop] = h @ W.T
    return z
