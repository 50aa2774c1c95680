"""Numbers of a row → missing ones filled → standardised → a constant appended → norm √m_0."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class Moments:
    """Means, variances and ranges of d features over the rows where they are known, float64.

    Attributes:
        rows: number of rows n, with those where a feature is missing.
        counts: (d,), rows where it is known.
        means: (d,); 0 where ``counts`` is 0.
        variances: (d,), likewise.
        least: (d,); NaN where ``counts`` is 0.
        most: (d,), likewise.
    """

    rows: int
    counts: Array
    means: Array
    variances: Array
    least: Array
    most: Array

    @classmethod
    def of(cls, x: Array) -> "Moments":
        """Those of rows (n, d), NaN where a number is missing."""
        missing = np.isnan(x)
        if missing.any():
            counts = len(x) - missing.sum(axis=0)
            divisors = np.maximum(counts, 1)
            means = np.nansum(x, axis=0, dtype=np.float64) / divisors
            variances = np.nansum((x - means) ** 2, axis=0, dtype=np.float64) / divisors
        else:
            counts = np.full(x.shape[1], len(x))
            means, variances = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
        least, most = np.fmin.reduce(x, axis=0), np.fmax.reduce(x, axis=0)
        return cls(len(x), counts, means, variances, least.astype(np.float64), most.astype(np.float64))

    def taken(self, kept: Array) -> "Moments":
        """Those of the features that ``kept`` (d,) selects."""
        parts = (self.counts, self.means, self.variances, self.least, self.most)
        return Moments(self.rows, *(part[kept] for part in parts))

    def merged(self, other: "Moments") -> "Moments":
        """Those of the rows of both.

        Source: T. F. Chan, G. H. Golub, R. J. LeVeque, Algorithms for computing the sample variance (1983).
        """
        counts = self.counts + other.counts
        share = other.counts / np.maximum(counts, 1)
        apart = other.means - self.means
        return Moments(
            self.rows + other.rows,
            counts,
            self.means + share * apart,
            (1 - share) * self.variances + share * other.variances + share * (1 - share) * apart**2,
            np.fmin(self.least, other.least),
            np.fmax(self.most, other.most),
        )

    def filled(self, values: Array) -> "Moments":
        """Those of the same rows where missing numbers are ``values`` (d,)."""
        missing = self.rows - self.counts
        if not missing.any():
            return self
        there = np.where(missing > 0, values, np.nan)
        return self.merged(Moments(0, missing, values, np.zeros_like(values), there, there))


@dataclass(frozen=True)
class Standardization:
    """Gives every feature zero mean and unit variance over the training rows; constant features become 0.

    Attributes:
        means: (d,), float64.
        deviations: likewise; 0 for a constant.
    """

    means: Array
    deviations: Array

    @classmethod
    def of(cls, moments: Moments) -> "Standardization":
        """That of the training rows."""
        # Constants are detected by their range: rounding gives 0.1, 0.1, ... a deviation of 1e-17.
        varies = moments.most > moments.least
        return cls(moments.means, np.where(varies, np.sqrt(moments.variances), 0.0))

    def apply(self, x: Array) -> Array:
        """Rows (n, d), standardised."""
        varies = self.deviations > 0
        factors: Array = varies / np.where(varies, self.deviations, 1)
        return (x - self.means) * factors

    def undo(self, z: Array) -> Array:
        """Rows (n, d) in the unit of the training rows, float64."""
        return np.asarray(z, np.float64) * self.deviations + self.means

    def as_dict(self) -> dict[str, list[float]]:
        """JSON values from which :meth:`from_dict` makes the same, bit for bit."""
        return {"means": self.means.tolist(), "deviations": self.deviations.tolist()}

    @classmethod
    def from_dict(cls, stored: Any, count: int, name: str) -> "Standardization":
        """That of :meth:`as_dict`, of ``count`` features.

        Raises:
            ValueError: it is none.
        """
        return cls(*(finite_row(stored[key], count, name) for key in ("means", "deviations")))


@dataclass(frozen=True)
class Normalization:
    """The way from the numbers of a row (d,) to an input (m_0,).

    Attributes:
        fills: (d,), what stands for missing numbers; None: none are missing.
        standardization: of the d numbers; None: as they are.
        constant: a last feature; None: m_0 = d.
    """

    fills: Array | None = None
    standardization: Standardization | None = None
    constant: float | None = None

    def apply(self, x: Array) -> Tensor:
        """Inputs (n, m_0), float32, from rows (n, d)."""
        if self.fills is not None:
            x = np.where(np.isnan(x), self.fills, x)
        if self.standardization is not None:
            x = self.standardization.apply(x)
        if self.constant is not None:
            x = np.concatenate([x, np.full((len(x), 1), self.constant)], axis=1)
        return unit_rows(x)


def unit_rows(inputs: Array) -> Tensor:
    """Rows scaled to ‖x‖ = √m_0 in float32; a row of zeros stays zero."""
    # Entries are divided by the largest one before squaring, so that none leaves the range of float32.
    # The norm is then at least 1, except for a row of zeros.
    peak = np.abs(inputs).max(axis=1, keepdims=True)
    x = torch.from_numpy(np.asarray(inputs / np.where(peak > 0, peak, 1), dtype=np.float32))
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x.mul_(x.shape[1] ** 0.5 / norm.clamp_min(1))


def finite_row(values: object, count: int, name: str) -> Array:
    """A JSON list of ``count`` finite numbers as float64.

    Raises:
        ValueError: it is something else; names it.
    """
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(type(value) in (int, float) and abs(value) <= sys.float_info.max for value in values)
    ):
        raise ValueError(f"its pipeline has unusable {name}")
    return np.array(values, np.float64)
