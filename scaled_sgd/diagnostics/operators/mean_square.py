"""How the mean square distance from a point grows in a step of SGD (theory §9; Wu, Ma, E, NeurIPS 2018)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.diagnostics.operators.space import WeightOperator, WeightVectors


@dataclass(frozen=True)
class MeanSquareGrowth:
    """The mean over minibatches B of (κ − ηC_B)², less κ²: −η E_B[C_B (2κ − ηC_B)].

    κ² is left out so that residuals are relative to the growth. Its product takes two of each C_B.

    Attributes:
        inner: the C_B, on vectors stored as the same weights.
        rate: η.
        kept: κ, 1 without weight decay.
    """

    inner: Sequence[WeightOperator]
    rate: float
    kept: float = 1.0

    @property
    def vectors(self) -> WeightVectors:
        """Those of the first C_B, which draw random vectors from its range."""
        return self.inner[0].vectors

    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """The product, into ``out``."""
        out.zero_()
        product = torch.empty_like(out)
        for curvature in self.inner:
            rest = torch.add(2 * self.kept * dual, curvature.multiply(dual, product), alpha=-self.rate)
            out.sub_(curvature.multiply(rest, product), alpha=self.rate / len(self.inner))
        return out

    def start(self, seed: int) -> Tensor:
        """The sum of the start vectors of all C_B."""
        first, *others = (curvature.start(seed) for curvature in self.inner)
        return sum(others, first)
