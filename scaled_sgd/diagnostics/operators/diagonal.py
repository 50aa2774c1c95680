"""A curvature matrix between two equal diagonal matrices."""

from dataclasses import dataclass

from torch import Tensor

from scaled_sgd.diagnostics.operators.curvature import Curvature
from scaled_sgd.diagnostics.operators.samples import SampleVectors
from scaled_sgd.diagnostics.operators.weights import RowVectors


@dataclass(frozen=True)
class Diagonal:
    """R C R with a diagonal R.

    Attributes:
        inner: C, on dense vectors.
        roots: the diagonal of R on this process, (size,).
    """

    inner: Curvature
    roots: Tensor

    @property
    def vectors(self) -> RowVectors | SampleVectors:
        """Those of C."""
        return self.inner.vectors

    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """The product, into ``out``."""
        return self.inner.multiply(dual * self.roots, out).mul_(self.roots)

    def start(self, seed: int) -> Tensor:
        """R times the gradient, plus a random vector."""
        return self.inner.start(seed).mul_(self.roots)
