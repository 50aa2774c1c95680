"""Activations φ by name: the one place to add one. Does not import torch (theory §1, §8)."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.registry import Registry, load

if TYPE_CHECKING:
    from torch import Tensor


class Activation(ABC):
    """φ with its derivatives, which are computed from one tensor g: h = φ(z) if that determines them, else z.

    Attributes:
        given: the name, or else the pair, that :meth:`of` takes for it.
        from_value: whether g is h, so that z need not be kept.
        saves_value: whether autograd keeps h for the backward pass, instead of z.
        curved: whether φ″ is not 0; else φ is piecewise linear and 1-homogeneous.
        hides_infinity: whether φ(∞) or φ(−∞) is finite.
        scale: σ = E[φ′(s)²]^{−1/2} for s ~ N(0, 1): weights behind φ start with σ times their usual standard
            deviation, so that backward signals keep their size.
    """

    given: str | tuple[float, float]
    from_value: bool
    saves_value: bool
    curved: bool
    hides_infinity: bool
    scale: float

    @staticmethod
    def of(name: "str | tuple[float, float] | Activation") -> "Activation":
        """The activation called ``name``, or a·s + b·|s| for a pair (a, b), normalised to a² + b² = 1.

        Raises:
            UserError: an unknown name, or a pair that is not two finite numbers, one of them not 0.
        """
        found: Activation
        if isinstance(name, Activation):
            return name
        if not isinstance(name, str):
            found = load("scaled_sgd.core.piecewise_linear:PiecewiseLinear")(*normalized(name))
            return found
        if name not in ACTIVATIONS:
            allowed = ", ".join(ACTIVATIONS)
            raise UserError(f"activation: {name!r} is unknown; allowed: {allowed} or two numbers [a, b]")
        found = load(ACTIVATIONS[name].phi)
        return found

    @abstractmethod
    def value(self, z: "Tensor") -> "Tensor":
        """φ(z)."""

    @abstractmethod
    def pulled(self, t: "Tensor", g: "Tensor") -> "Tensor":
        """φ′ ∘ t, in one pass if possible; the shape of ``t`` may have further leading dimensions."""

    @abstractmethod
    def derivatives(self, g: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
        """φ′, φ″ and φ‴."""


@dataclass(frozen=True)
class NamedActivation:
    """An entry of :data:`ACTIVATIONS`.

    Attributes:
        label: its formula.
        phi: the :class:`Activation`, or ``"module:name"``, imported on first use.
    """

    label: str
    phi: str | Activation


ACTIVATIONS: Registry[NamedActivation] = Registry("activation")
for _name, _label in (("relu", "√2 max(s, 0)"), ("abs", "|s|"), ("linear", "s")):
    _entry = NamedActivation(_label, f"scaled_sgd.core.piecewise_linear:{_name.upper()}")
    ACTIVATIONS.add(_name, _entry)
for _name, _label in (
    ("tanh", "tanh s"),
    ("gelu", "s Φ(s)"),
    ("softplus", "log(1 + eˢ)"),
    ("swish", "s / (1 + e⁻ˢ)"),
):
    ACTIVATIONS.add(_name, NamedActivation(_label, f"scaled_sgd.core.smooth:{_name.upper()}"))


def normalized(pair: tuple[float, float]) -> tuple[float, float]:
    """(a, b) divided by √(a² + b²): the edge of chaos for unit-variance weights (theory §1).

    Raises:
        UserError: not two finite numbers, one of them not 0.
    """
    allowed = "allowed: two finite numbers [a, b], one of them not 0"
    try:
        a, b = (float(value) for value in pair)
    except (TypeError, ValueError):
        raise UserError(f"activation: {pair!r} is not usable; {allowed}") from None
    norm = math.hypot(a, b)
    if not 0 < norm < math.inf:
        raise UserError(f"activation: [{a}, {b}] cannot be normalised; {allowed}")
    return a / norm, b / norm
