"""Knowledge gain and mapping condition of every layer (arXiv 2006.06587)."""

from typing import Any

from scaled_sgd.diagnostics.knowledge import knowledge_of
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.quantities.state import Stateless


class KnowledgeGain(Stateless):
    """What of each W_k stands out of noise."""

    def measure(self, context: Context) -> dict[str, Any]:
        """``knowledge_gain``, ``mapping_condition`` and ``low_rank``."""
        found = knowledge_of(context.minibatch.partition)
        return {
            "knowledge_gain": [one.gain for one in found],
            "mapping_condition": [one.condition for one in found],
            "low_rank": [one.rank for one in found],
        }
