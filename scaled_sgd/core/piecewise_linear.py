"""φ(s) = a·s + b·|s| (theory §1). Imports torch on first use, since the planner only reads facts of φ."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from scaled_sgd.core.activations import Activation, normalized

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PiecewiseLinear(Activation):
    """φ(s) = a·s + b·|s| with a² + b² = 1, so that σ = 1. At s = 0 it has the left slope, as torch's ReLU."""

    a: float
    b: float

    curved = False
    saves_value = False
    scale = 1.0

    @cached_property
    def given(self) -> str | tuple[float, float]:  # type: ignore[override]
        """The name of one of the constants below, else (a, b)."""
        named = {RELU: "relu", ABS: "abs", LINEAR: "linear"}
        return named.get(self, (self.a, self.b))

    @property
    def positive_slope(self) -> float:
        """φ′(s) for s > 0: a + b."""
        return self.a + self.b

    @property
    def negative_slope(self) -> float:
        """φ′(s) for s ≤ 0: a − b."""
        return self.a - self.b

    @cached_property
    def from_value(self) -> bool:  # type: ignore[override]
        """Whether h is positive where z is, and nowhere else."""
        return self.positive_slope > 0 and self.negative_slope >= 0

    @cached_property
    def hides_infinity(self) -> bool:  # type: ignore[override]
        """Whether a slope is 0."""
        return self.positive_slope == 0 or self.negative_slope == 0

    def value(self, z: "Tensor") -> "Tensor":
        """a·z + b·|z|."""
        if self.positive_slope == 0:
            return self.negative_slope * z.clamp(max=0)
        from torch.nn.functional import leaky_relu

        h = leaky_relu(z, self.negative_slope / self.positive_slope)
        return h if self.positive_slope == 1 else self.positive_slope * h

    def pulled(self, t: "Tensor", g: "Tensor") -> "Tensor":
        """D ∘ t with D = a + b where g is positive, else a − b.

        Implemented as the backward pass of a leaky ReLU, which is one fused pass over t; ``torch.where`` with
        numbers is not, and takes longer than a matrix product of a narrow layer.
        """
        if self.positive_slope == 0:
            return (self.negative_slope * t).masked_fill_(g > 0, 0)
        import torch

        slope = self.negative_slope / self.positive_slope
        chosen: Tensor = torch.ops.aten.leaky_relu_backward(t, g, slope, False)
        return chosen if self.positive_slope == 1 else chosen.mul_(self.positive_slope)

    def derivatives(self, g: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
        """D, 0 and 0."""
        import torch

        zero = torch.zeros_like(g)
        return self.pulled(torch.ones_like(g), g), zero, zero


RELU = PiecewiseLinear(*normalized((1.0, 1.0)))
ABS = PiecewiseLinear(*normalized((0.0, 1.0)))
LINEAR = PiecewiseLinear(*normalized((1.0, 0.0)))
