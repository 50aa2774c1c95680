"""Which layers are sharp, on the probe: their own blocks of H, their shares of its top eigenvector."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scaled_sgd.diagnostics.blocks import block_spectra, grams_are_smaller, layer_shares
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.operators.curvature import curvature
from scaled_sgd.diagnostics.quantities.searches import Searches, SearchSettings


class Blocks:
    """Sharpness of each layer's diagonal block of H, and ‖u_k‖² of the top eigenvector u of H."""

    def __init__(self, config: SearchSettings) -> None:
        self._searches = Searches(config, k=1)

    def measure(self, context: Context) -> dict[str, Any]:
        """``block_sharpness`` and ``top_vector_shares``."""
        probe = context.probe
        operator, whole = self._searches.hessian(context)
        layers = range(1, probe.partition.depth + 1)
        if grams_are_smaller(probe):
            sharpness = block_spectra(probe)[:, 0].tolist()
        else:
            found = [self._searches.top(f"layer.{k}", curvature(probe, layers=[k])) for k in layers]
            sharpness = [float(pairs.values[0]) for pairs in found]
        shares = layer_shares(operator.vectors, whole.vectors[0])
        return {"block_sharpness": sharpness, "top_vector_shares": shares.tolist()}

    def state_dict(self) -> dict[str, Tensor]:
        """The start vectors of later searches."""
        return self._searches.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self._searches.load_state_dict(state)
