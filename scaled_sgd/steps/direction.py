"""Directions: a step is δᵀ K h, where K_k is a number or an n × n matrix per layer (theory §3b, ours)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Direction:
    """K for some layers: U_k = (α_k/n) δ_kᵀ K_k h_{k−1}.

    Leading dimensions (…) are those of a stack of networks; one network has none.

    Attributes:
        numbers: (…, layers), float64: ξ of scalar rules, or factors of the matrices.
        matrices: for each layer K_k (…, n, n), or None if K_k is only its number.
    """

    numbers: Tensor
    matrices: Sequence[Tensor | None] | None = None

    def times(self, factor: Tensor) -> "Direction":
        """Every K_k multiplied by ``factor`` (…)."""
        return Direction(self.numbers * factor[..., None], self.matrices)

    def matrix(self, i: int) -> Tensor | None:
        """The matrix of the i-th layer, without its number; None for a scalar rule."""
        return None if self.matrices is None else self.matrices[i]

    @property
    def is_scalar(self) -> bool:
        """Whether every K_k is a number."""
        return self.matrices is None or all(K is None for K in self.matrices)

    def weighted(self, delta: Tensor, i: int) -> Tensor:
        """K_kᵀ δ_k without the number, for δ_k (…, n, columns) of all n samples."""
        K = self.matrix(i)
        return delta if K is None else K.transpose(-1, -2) @ delta
