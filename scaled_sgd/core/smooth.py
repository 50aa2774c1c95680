"""Smooth activations with three derivatives in closed form, and how signals drift in them (theory §8)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from scaled_sgd.core.activations import Activation

Derivatives = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Smooth(Activation):
    """An activation with three continuous derivatives.

    Attributes:
        name: its name in ``model.activation``.
        of_z: φ(z) from z, by operations that autograd knows.
        of_g: φ′, φ″, φ‴ from h if ``from_value``, else from z.
        times_slope: φ′ ∘ t from (t, g) in one pass; None: by ``of_g``.
        from_value: whether the derivatives are functions of h.
        saves_value: whether autograd keeps h for the backward pass of ``of_z``, instead of z.
    """

    name: str
    of_z: Callable[[Tensor], Tensor]
    of_g: Derivatives
    times_slope: Callable[[Tensor, Tensor], Tensor] | None = None
    from_value: bool = False
    saves_value: bool = False

    curved = True

    @property
    def given(self) -> str:  # type: ignore[override]
        """The name."""
        return self.name

    def value(self, z: Tensor) -> Tensor:
        """φ(z)."""
        return self.of_z(z)

    def pulled(self, t: Tensor, g: Tensor) -> Tensor:
        """φ′ ∘ t."""
        return t * self.of_g(g)[0] if self.times_slope is None else self.times_slope(t, g)

    def derivatives(self, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """φ′, φ″ and φ‴."""
        return self.of_g(g)

    @cached_property
    def hides_infinity(self) -> bool:  # type: ignore[override]
        """Whether φ(∞) or φ(−∞) is finite."""
        ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64, device="cpu")
        return bool(self.value(ends).isfinite().any())

    @cached_property
    def scale(self) -> float:  # type: ignore[override]
        """σ, to 12 digits, so that initial weights do not depend on a machine's rounding."""
        return float(f"{self.moments(1.0)[1] ** -0.5:.12g}")

    def moments(self, q: float) -> tuple[float, float]:
        """E[φ(s)²] and E[φ′(s)²] for s ~ N(0, q), by the trapezoidal rule."""
        g = torch.linspace(-12, 12, 4001, dtype=torch.float64, device="cpu")
        weights = torch.exp(-0.5 * g.square())
        z = math.sqrt(q) * g
        h = self.value(z)
        slope = self.derivatives(h if self.from_value else z)[0]
        value, slope = ((t.square() * weights).sum() / weights.sum() for t in (h, slope))
        return float(value), float(slope)

    def drift(self, layers: int) -> list[tuple[float, float]]:
        """(q_k, σ² E[φ′²]) of layers k = 1..``layers`` at step 0 in infinitely wide networks.

        q_k = E[z_k²]: 1 in the first layer, then q_{k+1} = σ² E[φ(s)²] for s ~ N(0, q_k). The second number
        is the factor on ‖δ_k‖² of a pass back through layer k's φ and the weights behind it.
        """
        found, q = [], 1.0
        for _ in range(layers):
            value, slope = self.moments(q)
            found.append((q, self.scale**2 * slope))
            q = self.scale**2 * value
        return found

    def describe(self, layers: int) -> str:
        """What a user must know of a network with ``layers`` hidden layers, on one line."""
        (q, gain), (last_q, last_gain) = (self.drift(layers)[place] for place in (0, -1))
        return (
            f"{self.name} is not homogeneous; weights behind it start with {self.scale:.4g} times their "
            f"standard deviation; over {layers} wide hidden layers E[z²] goes from {q:.3g} to {last_q:.3g} "
            f"at step 0, the backward gain of a layer from {gain:.3g} to {last_gain:.3g}"
        )


def _tanh(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    square = h.square()
    first = 1 - square
    return first, -2 * h * first, first * (6 * square - 2)


def _times_tanh_slope(t: Tensor, h: Tensor) -> Tensor:
    pulled: Tensor = torch.ops.aten.tanh_backward(t, h)
    return pulled


def _gelu(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    square = z.square()
    density = torch.exp(-0.5 * square) / math.sqrt(2 * math.pi)
    return torch.special.ndtr(z) + z * density, (2 - square) * density, z * (square - 4) * density


def _times_gelu_slope(t: Tensor, z: Tensor) -> Tensor:
    # oneDNN, which takes float32 on CPUs, does not broadcast.
    pulled: Tensor = torch.ops.aten.gelu_backward(t, z.expand_as(t))
    return pulled


def _softplus(z: Tensor) -> Tensor:
    # torch's own limit of 20, beyond which it takes s, is 2e-9 off.
    return F.softplus(z, threshold=40)


def _softplus_derivatives(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first, rest = -torch.expm1(-h), torch.exp(-h)
    second = first * rest
    return first, second, second * (rest - first)


def _times_softplus_slope(t: Tensor, h: Tensor) -> Tensor:
    slope = h.neg().expm1_().neg_()
    return slope.mul_(t) if t.shape == slope.shape else t * slope


def _swish(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p, rest = torch.sigmoid(z), torch.sigmoid(-z)
    d, skew = p * rest, rest - p
    return p + z * d, d * (2 + z * skew), d * (3 * skew + z * (skew.square() - 2 * d))


def _times_swish_slope(t: Tensor, z: Tensor) -> Tensor:
    pulled: Tensor = torch.ops.aten.silu_backward(t, z)
    return pulled


TANH = Smooth("tanh", torch.tanh, _tanh, _times_tanh_slope, from_value=True, saves_value=True)
GELU = Smooth("gelu", F.gelu, _gelu, _times_gelu_slope)
SOFTPLUS = Smooth("softplus", _softplus, _softplus_derivatives, _times_softplus_slope, from_value=True)
SWISH = Smooth("swish", F.silu, _swish, _times_swish_slope)
