"""What axes, legends and sentences call a column of the metrics or of the table of runs."""

from scaled_sgd.diagnostics.registry import QUANTITIES

_OF_EVERY_RUN = {
    "loss": "minibatch loss",
    "lr": "learning rate η",
    "grad_norm": "gradient norm ‖g‖",
    "loss_after": "minibatch loss after the step",
    "train_loss": "training loss",
    "eval_loss": "held-out loss",
    "accuracy": "held-out accuracy",
    "initial_loss": "first minibatch loss",
    "max_loss": "largest minibatch loss",
    "minibatch_soft_ranks": "soft rank S_k of the minibatch",
    "scales": "scale ξ_k",
    "parameters": "parameters",
    "seconds": "seconds of training",
}
"""Labels of columns that are of no diagnostic."""


def column_label(column: str) -> str:
    """The label of a column, with its symbol: ``features.drift.3`` is the kernel drift of layer 3."""
    name, _, place = column.rpartition(".")
    if not place.isdecimal():
        name, place = column, ""
    known = {found.name: found for entry in QUANTITIES.entries for found in entry.columns}.get(name)
    words = known.words if known else _OF_EVERY_RUN.get(name, name.replace("_", " ").replace(".", " "))
    if not place:
        return words
    return f"{words} {place}" if known and known.layers == "none" else f"{words} of layer {place}"
