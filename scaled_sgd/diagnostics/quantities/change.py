"""How far preactivations have moved on the probe: a coordinate check at every width."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.steps.signals import Minibatch


class Change:
    """RMS(z_k − z_k at the first call) / RMS(z_k there) of each layer."""

    def __init__(self, config: object) -> None:
        del config
        self._first: dict[str, Tensor] = {}

    @torch.no_grad()
    def measure(self, context: Context) -> dict[str, Any]:
        """``preactivation_change``."""
        partition = context.probe.partition
        squares = []
        for k, z in enumerate(own_preactivations(context.probe), start=1):
            if f"first.{k}" not in self._first:
                self._first[f"first.{k}"] = partition.gather(z, k)
            first = partition.own(self._first[f"first.{k}"], k)
            squares.append(torch.stack([(z - first).square().sum(), first.square().sum()]))
        moved, length = partition.sum(torch.stack(squares, 1))
        return {"preactivation_change": (moved / length).sqrt().tolist()}

    def state_dict(self) -> dict[str, Tensor]:
        """z_1..z_l of the first call."""
        return dict(self._first)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up :meth:`state_dict`."""
        self._first = dict(state)


def own_preactivations(batch: Minibatch) -> list[Tensor]:
    """This process's columns of z_1..z_l, each (n, width(k))."""
    partition = batch.partition
    depth = partition.depth
    parts = [
        [s.h[k - 1] @ partition.local(k).T * partition.multiplier(k) for k in range(1, depth)]
        + [partition.own(s.f, depth)]
        for s in batch
    ]
    return [torch.cat(z) for z in zip(*parts, strict=True)]
