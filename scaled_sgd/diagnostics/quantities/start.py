"""Distance from linearisation, and what moves preactivations, since the weights that the seed draws."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.start import from_start, is_at_start


class SinceStart:
    """Changes on the probe since step 0.

    Weights of step 0 are not held but drawn again by the seed, so that the first measurement must be of them;
    a later one is null where it was not.
    """

    def __init__(self, config: object) -> None:
        del config
        self._began: bool | None = None

    def measure(self, context: Context) -> dict[str, Any]:
        """``linearisation_distance``, ``change_by_weights`` and ``change_by_features``."""
        if self._began is None:
            self._began = is_at_start(context.probe.partition)
        if not self._began:
            context.say(
                "linearisation_distance, change_by_weights, change_by_features: null, for they were not "
                "measured from the weights that run.seed draws on"
            )
            names = ("linearisation_distance", "change_by_weights", "change_by_features")
            return dict.fromkeys(names)
        found = from_start(context.probe)
        distance = float(found.linearisation)
        return {
            "linearisation_distance": distance if math.isfinite(distance) else None,
            "change_by_weights": found.by_weights.tolist(),
            "change_by_features": found.by_features.tolist(),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Whether the first measurement was of the weights of step 0."""
        return {} if self._began is None else {"began": torch.tensor(float(self._began))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`; without it, measurements did not begin at step 0."""
        self._began = bool(state.get("began", False))
