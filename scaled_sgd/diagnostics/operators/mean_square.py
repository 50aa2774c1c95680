"""How the mean square distance from a point grows in a step of SGD (theory §9; Wu, Ma, E, NeurIPS 2018)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.diagnostics.operators.curvature import Curvature
from scaled_sgd.diagnostics.operators.samples import SampleVectors
from scaled_sgd.diagnostics.operators.weights import RowVectors


@dataclass(frozen=True)
class MeanSquare:
    """The mean over minibatches B of (κ − ηC_B)².

    Its product takes two of each C_B.

    Attributes:
        inner: the C_B, on dense vectors of the same weights.
        rate: η.
        kept: κ, 1 without weight decay.
    """

    inner: Sequence[Curvature]
    rate: float
    kept: float = 1.0

    @property
    def vectors(self) -> RowVectors | SampleVectors:
        """Those of the first C_B, which draw random vectors from its range."""
        return self.inner[0].vectors

    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """The product, into ``out``."""
        out.zero_()
        product = torch.empty_like(out)
        for curvature in self.inner:
            once = torch.add(self.kept * dual, curvature.multiply(dual, product), alpha=-self.rate)
            out.add_(once, alpha=self.kept).add_(curvature.multiply(once, product), alpha=-self.rate)
        return out.div_(len(self.inner))

    def start(self, seed: int) -> Tensor:
        """The sum of the start vectors of all C_B."""
        first, *others = (curvature.start(seed) for curvature in self.inner)
        return sum(others, first)
