"""Matches base widths between width exponents."""

import math
from functools import lru_cache

from scaled_sgd.core.parameterization import count_weights, width_pattern

MATCHINGS = ("equal_base_width", "equal_parameters")


@lru_cache(maxsize=4096)
def matching_base_width(
    in_features: int, out_features: int, *, depth: int, base_width: int, like: float, exponent: float
) -> int:
    """The m for which widths m·k^exponent give as many weights as ``base_width`` with exponent ``like``.

    The nearest integer by ratio. The number of weights grows with m, so bisection finds the two candidates.
    """

    def weights(m: int, r: float) -> int:
        return count_weights(width_pattern(in_features, out_features, depth=depth, base_width=m, exponent=r))

    target = weights(base_width, like)
    below, above = 1, 2
    while weights(above, exponent) < target:
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if weights(middle, exponent) <= target else (below, middle)
    return min((below, above), key=lambda m: abs(math.log(weights(m, exponent) / target)))
