"""Knowledge gain and mapping condition of every layer (arXiv 2006.06587)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scaled_sgd.diagnostics.knowledge import knowledge_of
from scaled_sgd.diagnostics.observer import Context


class KnowledgeGain:
    """What of each W_k stands out of noise."""

    def __init__(self, config: object) -> None:
        del config

    def measure(self, context: Context) -> dict[str, Any]:
        """``knowledge_gain``, ``mapping_condition`` and ``low_rank``."""
        found = knowledge_of(context.minibatch.partition)
        return {
            "knowledge_gain": [one.gain for one in found],
            "mapping_condition": [one.condition for one in found],
            "low_rank": [one.rank for one in found],
        }

    def state_dict(self) -> dict[str, Tensor]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """No state."""
