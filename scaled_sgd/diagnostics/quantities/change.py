"""Relative change of preactivations on the probe, for coordinate checks (theory §1)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.steps.minibatch import Minibatch


class Change:
    """RMS(z_k − z_k at the first call) / RMS(z_k at the first call) of each layer."""

    def __init__(self, config: object) -> None:
        del config
        self._first: list[Tensor] = []
        self._knows_first = True

    def measure(self, context: Context) -> dict[str, Any]:
        """``preactivation_change``."""
        if not self._knows_first:
            context.say("preactivation_change: absent, for the checkpoint does not have the first ones")
            return {}
        now = preactivations(context.probe)
        self._first = self._first or now
        return {"preactivation_change": relative_change(now, self._first).tolist()}

    def state_dict(self) -> dict[str, Tensor]:
        """z_1..z_l of the first call."""
        return {f"first.{k}": z for k, z in enumerate(self._first, start=1)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`. Earlier versions did not save it; the change is then unknown."""
        self._first = [state[f"first.{k}"] for k in range(1, len(state) + 1)]
        self._knows_first = bool(state)


@torch.no_grad()
def preactivations(batch: Minibatch) -> list[Tensor]:
    """z_1..z_l, each (samples, m_k), complete on every process. Collective where weights are sharded."""
    partition = batch.partition
    chunks = [
        [partition.preactivation(signals.h[k - 1], k) for k in range(1, partition.depth + 1)]
        for signals in batch
    ]
    return [torch.cat(parts) for parts in zip(*chunks, strict=True)]


@torch.no_grad()
def relative_change(now: Sequence[Tensor], first: Sequence[Tensor]) -> Tensor:
    """RMS(z_k − z_k at first) / RMS(z_k at first), shape (l,)."""
    return torch.stack([(z - z_0).norm() / z_0.norm() for z, z_0 in zip(now, first, strict=True)])
