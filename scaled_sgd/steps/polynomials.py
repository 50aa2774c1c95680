"""Odd quintic polynomials that take singular values towards 1. Does not import torch.

A step is σ ← a σ + b σ³ + c σ⁵ on singular values in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from scaled_sgd.core.numbers import check_integer
from scaled_sgd.core.registry import Registry

Coefficients = tuple[float, float, float]
"""(a, b, c)."""

NEAR = 0.01
"""``polar_express`` takes singular values from its lower bound on to within this of 1."""


@dataclass(frozen=True)
class Polynomials:
    """A family of polynomials.

    Attributes:
        label: a short description.
        coefficients: the polynomials of a number of steps; None: no iteration but the limit itself.
    """

    label: str
    coefficients: Callable[[int], tuple[Coefficients, ...]] | None


POLYNOMIALS: Registry[Polynomials] = Registry("scaling.polar")


@dataclass(frozen=True)
class Polar:
    """How far and by which polynomials the rule ``spectral`` equalises singular values.

    Attributes:
        polynomials: a name in :data:`POLYNOMIALS`.
        iterations: number of steps; without effect for ``exact``.

    Raises:
        UserError: unknown polynomials or number of steps.
    """

    polynomials: str = "polar_express"
    iterations: int = 3

    def __post_init__(self) -> None:
        POLYNOMIALS[self.polynomials]
        check_integer("scaling.iterations", self.iterations, most=MOST)

    @property
    def precise(self) -> bool:
        """Whether float32 is too short: rounding grows by the product of the squares of all a."""
        return self.coefficients is None or self.iterations > 5

    @property
    def coefficients(self) -> tuple[Coefficients, ...] | None:
        """The polynomials; None for the limit."""
        of = POLYNOMIALS[self.polynomials].coefficients
        return None if of is None else of(self.iterations)


MOST = 8
"""Largest number of iterations, of which the recursion loses no digit that matters in float64."""


@cache
def bounds(coefficients: tuple[Coefficients, ...], rank: int) -> tuple[float, float]:
    """Bounds of the largest singular value after the iteration.

    Before it, the squares of at most ``rank`` singular values sum to 1: the largest is in [rank^{−1/2}, 1].
    """
    import numpy as np

    s = np.geomspace(1e-6, 1, 4000)
    least = s >= rank**-0.5
    for a, b, c in coefficients:
        s = a * s + b * s**3 + c * s**5
    return float(s[least].min(initial=s[-1])), float(s.max())


def quintic(steps: int) -> tuple[Coefficients, ...]:
    """One polynomial for all steps, of steepest slope at 0; takes singular values to 0.68 to 1.13."""
    return ((3.4445, -4.7750, 2.0315),) * steps


@cache
def polar_express(steps: int) -> tuple[Coefficients, ...]:
    """The composition that is nearest to 1 on [low, 1], where ``low`` is the least with a distance of NEAR.

    Greedy minimax polynomials (Amsel, Persson, Musco, Gower, arXiv 2505.16932, Algorithm 1).
    """
    short, long = 1e-12, 1.0
    for _ in range(60):
        low = (short * long) ** 0.5
        if _error(low, steps) > NEAR:
            short = low
        else:
            long = low
    return tuple(_compose(long, steps)[0])


def _error(low: float, steps: int) -> float:
    return _compose(low, steps)[1]


def _compose(low: float, steps: int) -> tuple[list[Coefficients], float]:
    found, high = [], 1.0
    for _ in range(steps):
        p, error = minimax(low, high)
        found.append(p)
        low, high = 1 - error, 1 + error
    return found, error


def minimax(low: float, high: float) -> tuple[Coefficients, float]:
    """The odd quintic nearest to 1 on [low, high] and its largest distance, by Remez exchange."""
    import numpy as np

    if high - low < 1e-6 * high:
        return (15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5), 0.0
    points = np.array([low, (3 * low + high) / 4, (low + 3 * high) / 4, high])
    error = 0.0
    for _ in range(50):
        system = np.stack([points, points**3, points**5, [1.0, -1.0, 1.0, -1.0]], 1)
        a, b, c, last = np.linalg.solve(system, np.ones(4))
        if abs(last - error) <= 1e-15:
            break
        error = last
        root = np.sqrt(9 * b * b - 20 * a * c)
        points[1:3] = np.sqrt(np.array([-3 * b - root, -3 * b + root]) / (10 * c))
    return (float(a), float(b), float(c)), float(last)


POLYNOMIALS.add("quintic", Polynomials("Muon's polynomial in every step", quintic))
POLYNOMIALS.add("polar_express", Polynomials("nearest to 1 in this number of steps", polar_express))
POLYNOMIALS.add("exact", Polynomials("eigen-decomposition in float64, for reference", None))

POLAR = Polar()
"""The default."""
