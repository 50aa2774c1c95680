"""Signals that a forward and backward pass by autograd hold, event by event.

The events are those of :class:`~scaled_sgd.core.network.HomogeneousMLP` in torch 2.9 to 2.13: products save
α_k h_{k−1}, activations save z_k, and each function of the backward pass holds its input and its output at
once. What is done with weights and gradients meanwhile differs by strategy: a
:class:`~scaled_sgd.planning.holding.Holding`.
"""

import math

from scaled_sgd.planning.holding import BUFFERS, GRADIENT, OUTPUTS, SIGNALS, Holding
from scaled_sgd.planning.ledger import Ledger
from scaled_sgd.planning.load import Load


class Pass:
    """One microbatch on a process.

    Args:
        load: the network and the minibatch.
        rows: samples of the microbatch on this process.
        holding: the strategy.
        ledger: where bytes are counted.
        gloo: whether gathering goes through a copy, and reducing too, and norms of 16-bit signals are taken
            from a float32 copy of them.
        parts: processes that share each layer: this one has ⌈m_k / parts⌉ columns of z_k.
    """

    def __init__(
        self, load: Load, rows: int, holding: Holding, ledger: Ledger, *, gloo: bool, parts: int = 1
    ) -> None:
        self._load, self._rows, self._parts, self._gloo = load, rows, parts, gloo
        self._holding, self._ledger = holding, ledger

    def run(self, *, first: bool, last: bool) -> None:
        """Forward, loss and backward."""
        load, holding = self._load, self._holding
        holding.start_pass(first=first, last=last)
        step = math.ceil(math.sqrt(load.depth)) if load.checkpointing else load.depth
        segments = [(start, min(start + step, load.depth)) for start in range(0, load.depth, step)]
        for start, stop in segments:
            self._forward(start, stop, keep=not load.checkpointing)
        self._outputs()
        holding.end_forward()
        self._loss()
        for start, stop in reversed(segments):
            self._backward(start, stop)
        holding.end_backward()

    def _whole(self, k: int) -> int:
        return self._rows * self._load.widths[k] * self._load.signal_size

    def _own(self, k: int) -> int:
        """Bytes of this process's columns of z_k; of all of them where k = 0."""
        return self._whole(0) if k == 0 else self._rows * self._columns(k) * self._load.signal_size

    def _columns(self, k: int) -> int:
        return -(-self._load.widths[k] // self._parts)

    def _forward(self, start: int, stop: int, *, keep: bool) -> None:
        """z_stop from z_start; saves what the backward pass needs where ``keep``."""
        ledger, holding = self._ledger, self._holding
        for k in range(start + 1, stop + 1):
            ledger.doing(f"forward pass, layer {k}")
            multiplied = self._load.multiplied[k - 1]
            if k > 1:
                self._activate(k - 1)
                if not keep and k - 1 > start:
                    ledger.give(SIGNALS, self._own(k - 1))
            holding.enter(k)
            gathered = self._gather(k - 1) if k > 1 else 0
            wide = (
                self._rows * self._load.widths[0] * self._load.itemsize if k == 1 and self._load.half else 0
            )
            ledger.take(SIGNALS, wide)
            if multiplied:
                ledger.take(SIGNALS, self._input(k))
            ledger.give(SIGNALS, wide)
            ledger.take(SIGNALS, self._own(k))
            holding.leave(k, again=False)
            self._measure(self._input(k))
            self._drop_input(k, gathered, saved=keep and not multiplied)
            if multiplied and not keep:
                ledger.give(SIGNALS, self._input(k))

    def _measure(self, signal: int) -> None:
        """The norm of a signal of so many bytes."""
        if self._load.half and self._gloo:
            self._ledger.pass_through(BUFFERS, 2 * signal)

    def _wide_input(self) -> int:
        """Bytes of α_1 x, or of x, before it is cut to 16 bits."""
        return self._rows * self._load.widths[0] * self._load.itemsize if self._load.half else 0

    def _input(self, k: int) -> int:
        """Bytes of h_{k−1}, which layer k needs whole."""
        return self._whole(k - 1)

    def _activate(self, k: int) -> None:
        """h_k beside z_k."""
        self._ledger.take(SIGNALS, self._own(k))
        if self._load.activation.positive_slope not in (0, 1):
            self._ledger.pass_through(SIGNALS, self._own(k))

    def _gather(self, k: int) -> int:
        """h_k whole beside this process's columns; its bytes, 0 where the columns are all there is."""
        if self._parts == 1:
            return 0
        ledger, own, whole = self._ledger, self._own(k), self._whole(k)
        ledger.take(BUFFERS, own + self._parts * own)
        if self._gloo:
            ledger.pass_through(BUFFERS, self._parts * own)
        uneven = self._parts * own != whole
        if uneven:
            ledger.take(BUFFERS, whole)
            ledger.give(BUFFERS, own + self._parts * own)
        else:
            ledger.give(BUFFERS, own)
        ledger.take(SIGNALS, whole)
        ledger.give(BUFFERS, whole)
        return whole

    def _drop_input(self, k: int, gathered: int, *, saved: bool) -> None:
        """Let go of h_{k−1} unless it is what the product of layer k saved."""
        if k == 1:
            return
        if gathered:
            self._ledger.give(SIGNALS, self._own(k - 1))
            if not saved:
                self._ledger.give(SIGNALS, gathered)
        elif not saved:
            self._ledger.give(SIGNALS, self._own(k - 1))

    def _outputs(self) -> None:
        """f, in float32 or wider, in the place of z_l."""
        last = self._load.depth
        self._ledger.doing("outputs")
        gathered = self._gather(last)
        if gathered:
            self._ledger.give(SIGNALS, self._own(last))
        self._ledger.move(SIGNALS, OUTPUTS, self._whole(last))
        if self._load.half:
            self._ledger.take(OUTPUTS, 2 * self._whole(last))
            self._ledger.give(OUTPUTS, self._whole(last))

    def _loss(self) -> None:
        """From f to δ_l by the functions of ``losses.py``."""
        ledger, last = self._ledger, self._load.depth
        ledger.doing("loss")
        outputs = self._rows * self._load.widths[last] * max(self._load.itemsize, self._load.signal_size)
        if self._load.loss == "mse":
            ledger.take(OUTPUTS, 2 * outputs)  # f − y and its square
            ledger.give(OUTPUTS, 2 * outputs)  # f and the square
            ledger.take(OUTPUTS, 2 * outputs)  # (f − y)¹ and twice that
            ledger.give(OUTPUTS, outputs)
            ledger.take(OUTPUTS, outputs)
            ledger.give(OUTPUTS, 2 * outputs)
        else:
            ledger.take(OUTPUTS, outputs)  # log softmax
            ledger.give(OUTPUTS, outputs)
            ledger.take(OUTPUTS, 2 * outputs)  # its gradient and δ
            ledger.give(OUTPUTS, 2 * outputs)
        ledger.move(OUTPUTS, SIGNALS, outputs)
        own = self._own(last)
        if own != outputs:
            ledger.take(SIGNALS, own)
            ledger.give(SIGNALS, outputs)

    def _again(self, start: int, stop: int) -> None:
        """Compute what layers start + 1..stop save; the last product is only begun."""
        ledger = self._ledger
        for k in range(start + 1, stop + 1):
            ledger.doing(f"forward pass again, layer {k}")
            multiplied = self._load.multiplied[k - 1]
            if k > 1:
                self._activate(k - 1)
            self._holding.enter(k)
            gathered = self._gather(k - 1) if k > 1 else 0
            if multiplied:
                ledger.take(SIGNALS, self._input(k))
            if k < stop:
                ledger.take(SIGNALS, self._own(k))
            self._holding.leave(k, again=True)
            self._drop_input(k, gathered, saved=not multiplied)

    def _backward(self, start: int, stop: int) -> None:
        """δ_start from δ_stop."""
        ledger, load, holding = self._ledger, self._load, self._holding
        for k in range(stop, start, -1):
            ledger.doing(f"backward pass, layer {k}")
            self._measure(self._own(k))
            holding.enter_backward(k)
            if load.checkpointing and k == stop:
                self._again(start, stop)
                ledger.doing(f"backward pass, layer {k}")
            ledger.take(GRADIENT, self._columns(k) * load.widths[k - 1] * load.signal_size)
            flowing = self._input(k)
            if k > 1:
                ledger.take(SIGNALS, flowing)
            ledger.give(SIGNALS, self._own(k))
            if load.multiplied[k - 1] or k > 1:
                ledger.give(SIGNALS, self._input(k))
            holding.gradient(k)
            if k == 1:
                continue
            if load.multiplied[k - 1]:
                ledger.pass_through(SIGNALS, flowing)
            holding.leave_backward(k)
            self._scatter(k - 1)
            own = self._own(k - 1)
            if load.activation.positive_slope not in (0, 1):
                ledger.pass_through(SIGNALS, own)
            ledger.pass_through(SIGNALS, own)
            ledger.give(SIGNALS, own)  # z

    def _scatter(self, k: int) -> None:
        """The sum over the processes of the gradient of h_k, of which each keeps its columns."""
        if self._parts == 1:
            return
        ledger, own = self._ledger, self._own(k)
        ledger.take(BUFFERS, self._parts * own + own)
        if self._gloo:
            ledger.pass_through(BUFFERS, self._parts * own)
        ledger.give(BUFFERS, self._parts * own)
        ledger.take(SIGNALS, own)
        ledger.give(BUFFERS, own)
        ledger.give(SIGNALS, self._whole(k))
