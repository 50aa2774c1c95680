"""The span of the top eigenvectors of the Hessian on the probe: how it turns, and what happens in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.diagnostics.directions import Factors, update_rows
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.quantities.searches import Searches, SearchSettings
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.direction import Direction

_WINDOW = 10


class Subspace:
    """The k top eigenvectors u_i: overlap with those of the last measurement, shares of gradient and step.

    The oscillation along u_1 is |⟨u_1, θ − θ̄⟩| with θ̄ the mean of the last measurements' middles of steps,
    θ + Δθ/2, each new one with a weight of 1/10 or more: at the edge θ jumps from side to side at every step,
    which samples of θ alone, an even number of steps apart, do not show.  [ours]

    Holds k + 1 vectors of the size of this process's rows of the weights.
    """

    def __init__(self, config: SearchSettings) -> None:
        self._searches = Searches(config)
        self._last: Tensor | None = None
        self._mean: Tensor | None = None
        self._count = 0

    def measure(self, context: Context) -> dict[str, Any]:
        """``subspace_overlap``, ``gradient_in_subspace``, ``step_in_subspace`` and ``oscillation``."""
        partition = context.probe.partition
        _, pairs = self._searches.hessian(context)
        found = [flat_rows(pairs.expand(i)) for i in range(len(pairs.values))]
        U, before = torch.stack(found), self._last
        self._last = U
        step = step_rows(context) if context.taken.known else None
        return {
            "subspace_overlap": None if before is None else overlap(partition, U, before),
            "gradient_in_subspace": share(partition, U, context.gradient),
            "step_in_subspace": None if step is None else share(partition, U, step),
            "oscillation": None if step is None else self._swing(context, U[0], step),
        }

    def _swing(self, context: Context, u: Tensor, step: Tensor) -> float:
        """|⟨u, θ − θ̄⟩|, with the middle of the coming step in θ̄."""
        partition = context.probe.partition
        theta = flat_rows([partition.local(k) for k in range(1, partition.depth + 1)])
        middle = theta + (context.taken.rate / 2) * step
        self._count = min(self._count + 1, _WINDOW)
        self._mean = middle if self._mean is None else self._mean.lerp(middle, 1 / self._count)
        return abs(float(partition.sum(torch.dot(u, theta - self._mean).double())))

    def state_dict(self) -> dict[str, Tensor]:
        """The last eigenvectors and the start vectors of later searches, all this process's share."""
        last = {} if self._last is None else {"start.last": self._last}
        if self._mean is not None:
            last |= {"start.mean": self._mean, "start.count": torch.tensor(float(self._count))}
        return last | {f"start.search.{name}": v for name, v in self._searches.starts.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self._last, self._mean = state.get("start.last"), state.get("start.mean")
        self._count = int(state.get("start.count", 0))
        starts = {n: v for n, v in state.items() if n.startswith("start.search.")}
        self._searches.starts = {n.removeprefix("start.search."): v for n, v in starts.items()}


def share(partition: Partition, U: Tensor, w: Tensor) -> float | None:
    """Σ_i ⟨u_i, w⟩²/‖w‖² for orthonormal u_i, this process's rows of all layers; None for w = 0."""
    sums = partition.sum(torch.cat([U @ w, torch.dot(w, w)[None]]).double())
    return float(sums[:-1].square().sum() / sums[-1]) if sums[-1] else None


def overlap(partition: Partition, U: Tensor, V: Tensor) -> float:
    """The mean cos² of the principal angles of two spans: 1 if the smaller lies in the larger."""
    inner = partition.sum((U @ V.T).double())
    return float(inner.square().sum()) / min(len(U), len(V))


def step_rows(context: Context) -> Tensor:
    """This process's rows of u of the step W + rate · u, flat."""
    batch = context.minibatch
    along = context.taken.along(batch)
    rows = update_rows(batch, along) if isinstance(along, Direction) else along
    found = []
    for k in range(1, batch.partition.depth + 1):
        update = rows(k)
        update = update.rows if isinstance(update, Factors) else update
        found.append(update / batch.partition.multiplier(k))
    return flat_rows(found)


def flat_rows(rows: Sequence[Tensor]) -> Tensor:
    """This process's rows of all layers as one vector."""
    return torch.cat([t.reshape(-1) for t in rows])
