"""Taylor terms along the step of a run (theory §3b, §4)."""

from typing import Any

from scaled_sgd.diagnostics.gates import gates_flipped
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.quantities.state import Stateless

_TERMS = ("c0", "c1", "c2", "c3", "gauss_newton", "feature")


class Taylor(Stateless):
    """c0..c3 of the minibatch loss, the predicted loss after the step, ρ, and the signs that it changes.

    Along u = −U if the step is −ηc U, else, with momentum or weight decay, along −v of the step −ηv.
    """

    def measure(self, context: Context) -> dict[str, Any]:
        """``taylor``, ``predicted_loss``, ``directional_edge_ratio`` and ``gates_flipped``."""
        taken = context.taken
        if not taken.known:
            context.say("taylor, predicted_loss, gates_flipped: null, for the optimizer does not step by −ηv")
            empty = dict.fromkeys(_TERMS)
            rest = dict.fromkeys(("predicted_loss", "directional_edge_ratio", "gates_flipped"))
            return {"taylor": empty} | rest
        terms = context.terms
        flipped = gates_flipped(context.minibatch, taken.along(context.minibatch), taken.rate)
        if flipped is None:
            context.say("gates_flipped: null, for a smooth activation has no kink")
        ratio = terms.directional_edge_ratio(taken.rate)
        if ratio is None and taken.rate:
            context.say("directional_edge_ratio: null where not c1 < 0 < c2, where the step has no edge")
        return {
            "taylor": {name: float(getattr(terms, name)) for name in _TERMS},
            "predicted_loss": float(terms.predicted_loss(taken.rate)),
            "directional_edge_ratio": ratio,
            "gates_flipped": None if flipped is None else flipped.tolist(),
        }
