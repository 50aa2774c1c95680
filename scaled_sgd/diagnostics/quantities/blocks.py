"""Which layers are sharp, on the probe: their own blocks of H, their shares of its top eigenvector."""

from typing import Any

from scaled_sgd.diagnostics.blocks import block_operators, layer_shares
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.quantities.searches import Searches, SearchSettings
from scaled_sgd.diagnostics.quantities.state import Searching


class Blocks(Searching):
    """Sharpness of each layer's diagonal block of H, and ‖u_k‖² of the top eigenvector u of H."""

    def __init__(self, config: SearchSettings) -> None:
        self._searches = Searches(config, k=1)

    def measure(self, context: Context) -> dict[str, Any]:
        """``block_sharpness`` and ``top_vector_shares``."""
        probe = context.probe
        operator, whole = self._searches.hessian(context)
        found = {
            k: float(self._searches.top(f"layer.{k}", block).values[0]) for k, block in block_operators(probe)
        }
        shares = layer_shares(operator.vectors, whole.vectors[0])
        return {"block_sharpness": [found[k] for k in sorted(found)], "top_vector_shares": shares.tolist()}
