"""Signals that a fused step holds, event by event: those of :func:`scaled_sgd.steps.step.take_step`."""

from collections.abc import Sequence

from scaled_sgd.planning.cluster import Cluster
from scaled_sgd.planning.holding import BUFFERS, GRADIENT, OUTPUTS, SIGNALS
from scaled_sgd.planning.ledger import Ledger
from scaled_sgd.planning.load import Load
from scaled_sgd.steps.step import HELD

FACTORS = "gathered factors"


class FusedPass:
    """Signals of a fused step.

    What a layer's update needs lives until the next layer's is there; in small steps, and where the whole
    gradient is limited, until all layers' are.
    """

    def __init__(self, load: Load, ledger: Ledger, rows: int, cluster: Cluster, *, parts: int = 1) -> None:
        self._load, self._ledger, self._rows, self._parts = load, ledger, rows, parts
        self._gloo, self._several = cluster.gloo, cluster.ranks // parts
        phi = load.activation
        self._gate_apart = not (phi.positive_slope > 0 and phi.negative_slope >= 0)

    def whole(self, k: int) -> int:
        """Bytes of h_k, all columns."""
        return self._rows * self._load.widths[k] * self._load.itemsize

    def own(self, k: int) -> int:
        """Bytes of this process's columns."""
        return self._rows * -(-self._load.widths[k] // self._parts) * self._load.itemsize

    def forward(self) -> None:
        """h_0..h_{l−1} and f."""
        ledger, depth = self._ledger, self._load.depth
        for k in range(1, depth + 1):
            ledger.doing(f"forward pass, layer {k}")
            if self._parts > 1:
                self._gather(k)
            else:
                ledger.take(SIGNALS, self.whole(k))
            if k > 1 and not self._gate_apart:
                ledger.give(SIGNALS, self.whole(k - 1))  # z_{k−1}
            if k < depth:
                ledger.take(SIGNALS, self.whole(k))
                if self._load.activation.positive_slope not in (0, 1):
                    ledger.pass_through(SIGNALS, self.whole(k))
        ledger.move(SIGNALS, OUTPUTS, self.whole(depth))

    def backward(self, factors: Sequence[bool]) -> None:
        """From f to the update of W_1."""
        ledger, load, depth = self._ledger, self._load, self._load.depth
        ledger.doing("loss")
        ledger.take(OUTPUTS, self.whole(depth))
        if load.loss == "mse":
            ledger.pass_through(OUTPUTS, self.whole(depth))
        at_once = load.limited or load.batch * sum(load.widths[1:]) <= HELD
        if self._parts > 1:
            ledger.take(SIGNALS, self.own(depth))
        waiting: list[tuple[str, int]] = []
        for k in range(depth, 0, -1):
            ledger.doing(f"backward pass, layer {k}")
            needed = [] if k == depth and self._parts == 1 else [(SIGNALS, self.own(k))]
            if factors[k - 1]:
                gathered = self._several * (self.whole(k) + self.whole(k - 1))
                needed.append((FACTORS, gathered))
                ledger.take(FACTORS, gathered)
                if self._gloo:
                    ledger.pass_through(BUFFERS, gathered)
                if self._several * self._rows != load.batch:
                    joined = load.batch * (load.widths[k] + load.widths[k - 1]) * load.itemsize
                    needed.append((FACTORS, joined))
                    ledger.take(FACTORS, joined)
            if k > 1:
                needed.append((SIGNALS, self.whole(k - 1)))
                ledger.take(BUFFERS, self.whole(k - 1))
                ledger.take(SIGNALS, self.own(k - 1))
                ledger.give(BUFFERS, self.whole(k - 1))
                if self._gate_apart:
                    ledger.give(SIGNALS, self.whole(k - 1))
            if not factors[k - 1] and self._several > 1:
                size = load.sizes[k - 1] * load.itemsize
                needed.append((GRADIENT, size))
                ledger.take(GRADIENT, size)
            if not at_once:
                self._give(waiting)
                waiting = []
            waiting += needed
        self._give(waiting)
        ledger.give(OUTPUTS, 2 * self.whole(depth))

    def _give(self, needed: list[tuple[str, int]]) -> None:
        for part, count in needed:
            self._ledger.give(part, count)

    def _gather(self, k: int) -> None:
        """z_k whole from this process's columns."""
        ledger, own, whole = self._ledger, self.own(k), self.whole(k)
        ledger.take(BUFFERS, (2 + self._parts) * own)
        if self._gloo:
            ledger.pass_through(BUFFERS, self._parts * own)
        if self._parts * own != whole:
            ledger.take(BUFFERS, whole)
            ledger.give(BUFFERS, (1 + self._parts) * own)
            ledger.take(SIGNALS, whole)
            ledger.give(BUFFERS, whole)
        else:
            ledger.give(BUFFERS, own)
            ledger.take(SIGNALS, whole)
            ledger.give(BUFFERS, self._parts * own)
        ledger.give(BUFFERS, own)
