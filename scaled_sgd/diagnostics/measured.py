"""What the registry says about a quantity."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from scaled_sgd.diagnostics.columns import Column

Need = Literal["minibatch", "probe", "step", "training"]


@dataclass(frozen=True)
class Measured:
    """A quantity.

    Attributes:
        make: ``"module:Class"`` or a callable that takes the ``diagnostics.`` section and returns a
            :class:`~scaled_sgd.diagnostics.observer.Quantity`.
        label: a short description.
        columns: the columns that it adds to a row.
        needs: its inputs: the minibatch of the coming step, the fixed probe, the step itself, fresh
            minibatches of the training samples.
        cost: approximate cost, in gradients of the minibatch or the probe.
        source: reference for the formulas.
        always: whether it is measured regardless of the switches.
    """

    make: str | Callable[..., Any]
    label: str
    columns: tuple[Column, ...]
    needs: tuple[Need, ...]
    cost: float
    source: str
    always: bool = False
