"""Which layers are factorised, and the widths of their factors: numbers only, no tensors (theory §11).

Khodak, Tenenholtz, Mackey, Fusi, arXiv 2105.01029: W = U Vᵀ of rank r. Vᵀ and U are two layers with the
identity between them, so that all formulas of a network hold for them.
"""

from dataclasses import dataclass
from functools import cached_property

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.numbers import check_integer


@dataclass(frozen=True)
class Factored:
    """A network of ordinary layers W_1..W_l, of which some are factorised, W_j = U_j V_jᵀ.

    W_j is factorised if j < l and both its widths are at least r; the last layer never is.

    Attributes:
        ordinary: (m_0, …, m_l) of W_1..W_l.
        rank: r; None: no layer is factorised.

    Raises:
        UserError: no layer has room for the rank.
    """

    ordinary: tuple[int, ...]
    rank: int | None = None

    def __post_init__(self) -> None:
        if self.rank is None:
            return
        check_integer("rank", self.rank)
        most = max(map(min, self.ordinary[:-2], self.ordinary[1:-1]), default=0)
        if self.rank > most:
            allowed = f"1 to {most}" if most else "null, since the last layer is never factorised"
            raise UserError(
                f"rank: {self.rank!r} is above the smaller width of every layer; allowed: {allowed}"
            )

    @property
    def depth(self) -> int:
        """Number of ordinary layers l."""
        return len(self.ordinary) - 1

    @cached_property
    def pairs(self) -> dict[int, int]:
        """Maps the place k of each V_jᵀ among all weight matrices, from 1, to j; U_j is at k + 1."""
        if self.rank is None:
            return {}
        wide = [j for j in range(1, self.depth) if min(self.ordinary[j - 1 : j + 1]) >= self.rank]
        return {j + before: j for before, j in enumerate(wide)}

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Widths of all weight matrices: (m_0, r, m_1, …), r inside each factorised layer."""
        found = [self.ordinary[0]]
        factorised = set(self.pairs.values())
        for j, width in enumerate(self.ordinary[1:], start=1):
            if j in factorised:
                assert self.rank is not None
                found.append(self.rank)
            found.append(width)
        return tuple(found)

    def ordinary_layer(self, k: int) -> int:
        """The j whose W_j the k-th weight matrix is, or is a factor of."""
        return k - sum(place < k for place in self.pairs)
