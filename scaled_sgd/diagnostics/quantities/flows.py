"""Gradient flow and central flow beside a run, from its first measurement on (theory §10)."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.flow.central import CentralFlow
from scaled_sgd.diagnostics.flow.follow import GradientDescent, GradientFlow
from scaled_sgd.diagnostics.flow.landscape import NetworkLandscape
from scaled_sgd.diagnostics.observer import Context

_KEY = "diagnostics.quantities: central_flow"
_PATHS = ("gradient_flow", "central_flow")
_COUNT, _SUBSTEPS = 2, 2
_SAME = 1e-6
"""Largest relative distance of a run from gradient descent between two measurements: rounding, amplified."""


class FlowSettings(Protocol):
    """The key of the ``diagnostics.`` section that is used here."""

    every: int


@dataclass(frozen=True)
class _Seen:
    """A path at a measurement: its mean loss over the steps since the last one, its largest eigenvalue and
    its weights, for gradient descent those that a mean over oscillations gives."""

    loss: float
    sharpness: float
    w: Tensor


class Flows:
    """Compares a run with its two flows. Holds four vectors of the weights' size.

    Between measurements the run's own steps are taken again, so that steps other than w − η∇L are noticed.
    Oscillations of period 2 cancel in (w_{t−1} + 2w_t + w_{t+1})/4, where descent's sharpness and distances
    are measured, as in the source.
    """

    def __init__(self, config: FlowSettings) -> None:
        self._every = config.every
        self._last: dict[str, Tensor] = {}
        self._stopped = False

    def measure(self, context: Context) -> dict[str, Any]:
        """``descent_loss`` and its related columns; null behind a point where a flow cannot be followed.

        Raises:
            UserError: the run is not gradient descent on all training samples, in float64 on one process.
        """
        partition = context.probe.partition
        if partition.ranks.size > 1 or partition.dtype != torch.float64 or not context.probe_is_all:
            raise UserError(
                f"{_KEY} compares with flows on all training samples in float64 on one process; allowed: "
                "with model.dtype float64, diagnostics.samples all, one process"
            )
        w = torch.cat([layer.weight.detach().reshape(-1) for layer in partition.model.scaled_layers])
        row: dict[str, Any] = dict.fromkeys(_columns())
        if self._stopped:
            return row
        try:
            seen = self._followed(context, w)
        except UserError as error:
            if str(error).startswith(_KEY):
                raise
            context.say(f"central_flow: no flows from here on: {error}")
            self._stopped, self._last = True, {}
            return row
        descent = seen["descent"]
        row |= {"descent_loss": descent.loss, "descent_sharpness": descent.sharpness}
        for name in _PATHS:
            flow = seen[name]
            row |= {
                f"{name}_loss": flow.loss,
                f"{name}_sharpness": flow.sharpness,
                f"{name}_distance": float((flow.w - descent.w).norm()),
                f"{name}_loss_error": abs(flow.loss / descent.loss - 1) if descent.loss else None,
                f"{name}_sharpness_error": abs(flow.sharpness / descent.sharpness - 1),
            }
        return row

    def _followed(self, context: Context, w: Tensor) -> dict[str, _Seen]:
        """The three paths now. Made anew at every measurement, so that a resumed run repeats them."""
        last = self._last or {"descent": w, "lr": torch.tensor(0.0)} | dict.fromkeys(_PATHS, w)
        steps, lr = (self._every, float(last["lr"])) if self._last else (0, context.taken.lr)
        descent = GradientDescent(self._landscape(context), last["descent"], lr, count=1)
        flow = GradientFlow(self._landscape(context), last["gradient_flow"], lr, count=1, substeps=_SUBSTEPS)
        central = CentralFlow(
            self._landscape(context), last["central_flow"], lr, count=_COUNT, substeps=_SUBSTEPS
        )
        losses: dict[str, list[float]] = {name: [] for name in ("descent", *_PATHS)}
        before = descent.w
        flow.measured()
        for _ in range(steps):
            losses["descent"].append(descent.point.loss)
            losses["gradient_flow"].append(flow.point.loss)
            losses["central_flow"].append(central.advance().loss)
            flow.advance()
            before = descent.w
            descent.advance()
        if not float((descent.w - w).norm()) <= _SAME * float(w.norm()):
            raise UserError(
                f"{_KEY} follows w − η∇L of all training samples, which the run's steps are not; allowed: "
                "with scaling.rule none, optim.batch_size all, optim.momentum 0, and a rate that changes "
                "only at multiples of diagnostics.every"
            )
        middle = w
        if steps:
            here = self._landscape(context)(w)
            middle = (before + 3 * w - context.taken.lr * here.gradient) / 4
        at = self._landscape(context)(middle)
        found = {
            "descent": (at.loss, float(at.eigenpairs(1, None)[0][0]), middle),
            "gradient_flow": (flow.point.loss, flow.measured()[1][0], flow.w),
            "central_flow": (central.point.loss, float(central.eigenvalues[0]), central.w),
        }
        self._last = {"descent": w, "gradient_flow": flow.w, "central_flow": central.w}
        self._last["lr"] = torch.tensor(context.taken.lr, dtype=torch.float64)
        seen = {
            name: _Seen(fmean(losses[name] or [loss]), value, weights)
            for name, (loss, value, weights) in found.items()
        }
        if not all(math.isfinite(one.loss) for one in seen.values()):
            raise UserError("a loss is not finite")
        return seen

    def _landscape(self, context: Context) -> NetworkLandscape:
        probe = context.probe
        network = copy.deepcopy(probe.partition.model)
        return NetworkLandscape(network, probe.x, probe.targets, loss=probe.loss, chunk_size=probe.chunk_size)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights of the three paths and η at the last measurement, and whether the flows ended."""
        return self._last | {"stopped": torch.tensor(self._stopped)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self._last = {name: t for name, t in state.items() if name != "stopped"}
        self._stopped = bool(state.get("stopped", False))


def _columns() -> list[str]:
    of_flows = ("loss", "sharpness", "distance", "loss_error", "sharpness_error")
    return ["descent_loss", "descent_sharpness", *(f"{name}_{one}" for name in _PATHS for one in of_flows)]
