"""Balls of directions that steps are taken in, for generalised sharpness (theory §9, arXiv 2603.05002)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scaled_sgd.diagnostics.operators.samples import SampleVectors
from scaled_sgd.diagnostics.operators.weights import RowVectors


class FrobeniusBall:
    """‖d_k‖_F ≤ r_k of every layer; the best d for a slope p is r_k p_k/‖p_k‖_F.

    Args:
        vectors: of the operator.
        radii: (l,), float64, on the CPU.
    """

    def __init__(self, vectors: RowVectors | SampleVectors, radii: Tensor) -> None:
        self._vectors, self._radii = vectors, radii

    def touch(self, p: Tensor, dual: Tensor) -> tuple[Tensor, float]:
        """The dual of the best d, and ⟨d, p⟩ = Σ_k r_k ‖p_k‖_F."""
        lengths = self.lengths(p, dual)
        factors = torch.where(lengths > 0, self._radii / lengths, 0.0).tolist()
        parts = zip(self._vectors.split(dual), factors, strict=True)
        return torch.cat([part * factor for part, factor in parts]), float(self._radii @ lengths)

    def lengths(self, p: Tensor, dual: Tensor) -> Tensor:
        """‖p_k‖_F, (l,), float64, on the CPU."""
        return self._vectors.squares(p, dual).sqrt().cpu()

    def scales(self, p: Tensor) -> Tensor:
        """ξ with max dᵀAd ≤ λ_max(Ξ^{1/2} A Ξ^{1/2}), the best one if p = A d of a largest d.  [ours]

        For any w ≥ 0 of sum 1 the ball lies in Σ_k w_k ‖d_k‖²/r_k² ≤ 1, on which the largest value is that
        eigenvalue with ξ_k = r_k²/w_k. At a stationary d, w_k ∝ r_k ‖p_k‖ makes it the value there where the
        relaxation is tight.
        """
        lengths = self.lengths(p, self._vectors.dual(p))
        shares = (self._radii * lengths).clamp(min=1e-9 * float(self._radii @ lengths))
        return self._radii.square() * shares.sum() / shares


class SpectralBall:
    """‖d_k‖_2 ≤ r_k of every layer, on dense vectors; the best d for a slope p is r_k polar(p_k).

    One singular value decomposition a layer, which every process repeats, of one gathered layer at a time.
    """

    def __init__(self, vectors: RowVectors | SampleVectors, radii: Sequence[float]) -> None:
        self._vectors, self._radii = vectors, radii

    def touch(self, p: Tensor, dual: Tensor) -> tuple[Tensor, float]:
        """The best d, and ⟨d, p⟩ = Σ_k r_k ‖p_k‖_*."""
        partition, best, total = self._vectors.partition, [], 0.0
        for k, rows in enumerate(self._vectors.expand(p), start=1):
            U, S, Vh = torch.linalg.svd(partition.gather(rows.T, k).T, full_matrices=False)
            kept = S[0] * max(U.shape[0], Vh.shape[1]) * torch.finfo(S.dtype).eps < S
            polar = U[partition.columns(k)][:, kept] @ Vh[kept]
            best.append(polar.mul_(self._radii[k - 1]).reshape(-1))
            total += self._radii[k - 1] * float(S.double().sum())
        return torch.cat(best), total
