"""Ranks of features and gradients on the probe, and drift of the feature kernels (theory §3, §7)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scaled_sgd.diagnostics.features import (
    feature_drift,
    gram,
    kernel_drift,
    kernel_ranks,
    soft_ranks_of,
)
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.quantities.labels import hidden

_RANKS = ("stable", "participation", "effective")


class SoftRanks:
    """S_k of every layer; ranks and kernel drift of every hidden layer, from the smaller Gram matrix.

    Drift is measured from the first call: from its kernels (n, n), or its features (n, m) where m < n.
    """

    def __init__(self, config: object) -> None:
        del config
        self._first: dict[str, Tensor] = {}

    def measure(self, context: Context) -> dict[str, Any]:
        """``soft_ranks`` and ``features``."""
        probe = context.probe
        layers = [self._layer(k, H) for k, H in enumerate(hidden(probe, slice(1, None)), start=1)]
        features = {name: [layer[name] for layer in layers] for name in (*_RANKS, "drift")}
        return {"soft_ranks": soft_ranks_of(probe).tolist(), "features": features}

    def _layer(self, k: int, H: Tensor) -> dict[str, float]:
        n, m = H.shape
        K = gram(H) if n <= m or f"kernel.{k}" in self._first else None
        if K is not None:
            drift = kernel_drift(K, self._first.setdefault(f"kernel.{k}", K))
        else:
            drift = feature_drift(H, self._first.setdefault(f"features.{k}", H))
        ranks = kernel_ranks(K if K is not None and n <= m else gram(H.T))
        return {name: float(getattr(ranks, name)) for name in _RANKS} | {"drift": float(drift)}

    def state_dict(self) -> dict[str, Tensor]:
        """The reference of the drift."""
        return dict(self._first)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self._first = dict(state)
