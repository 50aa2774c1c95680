"""What strategies do with weights and gradients while a step goes through the layers."""

from itertools import pairwise

from scaled_sgd.planning.ledger import Ledger
from scaled_sgd.planning.load import Load

SIGNALS, SAMPLES, OUTPUTS, GRADIENT, BUFFERS = (
    "signals",
    "samples",
    "outputs",
    "gradient in hand",
    "buffers",
)


class Holding:
    """What a strategy does with weights and gradients around the layers; k counts from 1. Nothing, here.

    Args:
        load: the network and the minibatch.
        ledger: where bytes are counted.
        parts: processes that share each layer.

    Attributes:
        numbers: of this process's rows of W_1..W_l.
        first: whether this is the step's first microbatch.
        last: whether it is the last.
    """

    def __init__(self, load: Load, ledger: Ledger, *, parts: int = 1) -> None:
        self.load, self.ledger = load, ledger
        self.numbers = [-(-rows // parts) * fan_in for fan_in, rows in pairwise(load.widths)]
        self.first = self.last = True

    def start_pass(self, *, first: bool, last: bool) -> None:
        """A microbatch begins."""
        self.first, self.last = first, last

    def enter(self, k: int) -> None:
        """W_k is about to be used."""

    def leave(self, k: int, *, again: bool) -> None:
        """z_k is there; ``again``: within the backward pass, which will use W_k soon."""

    def end_forward(self) -> None:
        """f is there."""

    def enter_backward(self, k: int) -> None:
        """δ_k is there; W_k is about to be used."""

    def gradient(self, k: int) -> None:
        """The gradient of W_k is in hand; δ_k W_k is there too."""

    def leave_backward(self, k: int) -> None:
        """α_k δ_k W_k is there; k > 1."""

    def end_backward(self) -> None:
        """All gradients are there."""
