"""Directions: a step is δᵀ K h, where K_k is a number or an n × n matrix per layer (theory §3b, ours)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Direction:
    """K for some layers: U_k = (α_k/n) δ_kᵀ K_k h_{k−1}.

    Leading dimensions (…) are those of a stack of networks; one network has none.

    Attributes:
        numbers: (…, layers), float64: ξ of scalar rules, or factors of the matrices.
        matrices: for each layer K_k (…, n, n), or None if K_k is only its number.
        dense: for each layer this process's rows of δ_kᵀ K_k h_{k−1} without the number, where the matrix K_k
            is larger than they are; else None.
    """

    numbers: Tensor
    matrices: Sequence[Tensor | None] | None = None
    dense: Sequence[Tensor | None] | None = None

    def times(self, factor: Tensor) -> "Direction":
        """Every K_k multiplied by ``factor`` (…, layers), or (…, 1)."""
        return replace(self, numbers=self.numbers * factor)

    def matrix(self, i: int) -> Tensor | None:
        """The matrix of the i-th layer, without its number; None for a number or dense rows."""
        return None if self.matrices is None else self.matrices[i]

    def rows(self, i: int) -> Tensor | None:
        """The dense rows of the i-th layer, without its number; None if K_k is given."""
        return None if self.dense is None else self.dense[i]

    @property
    def is_scalar(self) -> bool:
        """Whether every K_k is a number."""
        return all(t is None for given in (self.matrices, self.dense) for t in given or ())

    def factors(self, delta: Tensor, h: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """Two factors (left, right) with leftᵀ right = δ_kᵀ K_k h_{k−1}, without the number.

        K is multiplied with the narrower of δ_k (…, n, columns) and h_{k−1} (…, n, m_{k−1}) of all n samples.
        """
        K = self.matrix(i)
        if K is None:
            return delta, h
        if delta.shape[-1] < h.shape[-1]:
            return (K.transpose(-1, -2) @ delta.to(K.dtype)).to(delta.dtype), h
        return delta, (K @ h.to(K.dtype)).to(h.dtype)
