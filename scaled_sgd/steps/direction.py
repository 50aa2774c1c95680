"""Directions: a step is δᵀ K h, with K_k a number or an n × n matrix a layer (theory §3b, ours)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Direction:
    """K of some layers: U_k = (α_k/n) δ_kᵀ K_k h_{k−1}.

    Leading dimensions (…) are those of a stack of networks, none for one.

    Attributes:
        numbers: (…, layers), float64: the scalar rules' ξ, or what multiplies the matrices.
        matrices: for each layer K_k (…, n, n), or None where K_k is its number alone.
    """

    numbers: Tensor
    matrices: Sequence[Tensor | None] | None = None

    def times(self, factor: Tensor) -> "Direction":
        """Every K_k multiplied by ``factor`` (…)."""
        return Direction(self.numbers * factor[..., None], self.matrices)

    def matrix(self, i: int) -> Tensor | None:
        """The matrix of the i-th of these layers, without its number; None for a scalar rule."""
        return None if self.matrices is None else self.matrices[i]

    @property
    def is_scalar(self) -> bool:
        """Whether every K_k is a number."""
        return self.matrices is None or all(K is None for K in self.matrices)

    def weighted(self, delta: Tensor, i: int) -> Tensor:
        """K_kᵀ δ_k without the number, for δ_k (…, n, columns) of all n samples."""
        K = self.matrix(i)
        return delta if K is None else K.transpose(-1, -2) @ delta
