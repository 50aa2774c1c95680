"""The rate at which the loss along a direction no longer falls (arXiv 2601.16979)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from scaled_sgd.core.numbers import check_number
from scaled_sgd.diagnostics.algorithms.crossing import crossing
from scaled_sgd.diagnostics.eigenpairs import Eigenpairs
from scaled_sgd.diagnostics.generic_line import GenericLine, check_unchunked
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.moved import loss_of_rate
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.diagnostics.taylor import TaylorCoefficients, along_of, generic_taylor, taylor_of
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch


@dataclass(frozen=True)
class CriticalRates:
    """Rates η > 0 with L(θ + ηu) = L(θ).

    Attributes:
        rate: η_c of the loss itself; None where it does not fall at first along u, or as far as numbers go.
        predicted: the first zero of c1 + c2 η + c3 η²; None where it does not fall at first or has none.
        terms: c0..c3 along u.
    """

    rate: float | None
    predicted: float | None
    terms: TaylorCoefficients

    @property
    def sharpness(self) -> float | None:
        """The critical sharpness 2/η_c."""
        return None if self.rate is None else 2 / self.rate


@without_autocast
def critical_rate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: str,
    scales: str | Tensor | None = None,
    direction: Direction | Sequence[Tensor] | Eigenpairs | None = None,
    tolerance: float = 1e-3,
    chunk_size: int | None = None,
) -> CriticalRates:
    """η_c at which the global minibatch loss after a step ηu is that before, and its prediction.

    By evaluating the loss, across kinks and beyond the reach of Taylor terms. The smallest such rate unless
    the loss crosses its first value twice between neighbouring doublings of a trial rate.
    Costs c0..c3, and about 8 forward passes with u.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded; other networks take the generic path, without
            rules, K and chunks.
        x: this process's samples.
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        scales: as for :func:`~scaled_sgd.diagnostics.taylor.taylor_coefficients`.
        direction: u, as there; None: −ξ times the gradient.
        tolerance: of η_c, relative.
        chunk_size: largest number of samples at a time.

    Raises:
        UserError: invalid arguments.
    """
    check_number("tolerance", tolerance, positive=True)
    if is_homogeneous(model):
        batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
        along = along_of(batch, direction, scales)
        return critical_along(taylor_of(batch, along), loss_of_rate(batch, along), tolerance=tolerance)
    check_unchunked(chunk_size)
    line = GenericLine(model, x, y, loss=loss, direction=direction, scales=scales)
    return critical_along(generic_taylor(line), lambda rate: float(line.losses([rate])), tolerance=tolerance)


def critical_along(
    terms: TaylorCoefficients, loss: Callable[[float], float], *, tolerance: float, first: float = 0.0
) -> CriticalRates:
    """From c0..c3 and the loss of a rate, the same on every process.

    Args:
        terms: c0..c3.
        loss: L(θ + ηu) of η.
        tolerance: of η_c, relative.
        first: where to begin if c1..c3 have no zero; 0: at 1.
    """
    if not float(terms.c1) < 0:
        return CriticalRates(None, None, terms)
    predicted, before = predicted_rate(terms), loss(0.0)
    rate = crossing(lambda rate: loss(rate) - before, predicted or first or 1.0, tolerance=tolerance)
    return CriticalRates(rate, predicted, terms)


def predicted_rate(terms: TaylorCoefficients) -> float | None:
    """The smallest η > 0 with c1 + c2 η + c3 η² = 0, for c1 < 0; None if there is none."""
    assert terms.c2 is not None
    assert terms.c3 is not None
    c, b, a = float(terms.c1), float(terms.c2), float(terms.c3)
    square = b * b - 4 * a * c
    if square < 0 or (a <= 0 and b <= 0):
        return None
    # The stable form of the root that tends to −c/b as a tends to 0.
    rate = -2 * c / (b + math.sqrt(square))
    return rate if 0 < rate < math.inf else None
