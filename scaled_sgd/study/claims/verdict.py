"""Whether the claims of a paper came out in a study."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from scaled_sgd.study.claims.paper import PaperClaim
from scaled_sgd.study.claims.taking import taken
from scaled_sgd.study.tables.collect import Collected


class Verdict(StrEnum):
    """Whether what a paper says came out."""

    AGREES = "agrees"
    PARTLY = "partly"
    DOES_NOT = "does not"
    UNKNOWN = "no number"


@dataclass(frozen=True)
class Judged:
    """A claim with the number that came out, NaN where its runs are missing."""

    claim: PaperClaim
    value: float

    @property
    def verdict(self) -> Verdict:
        """Whether the number is in the range."""
        if math.isnan(self.value):
            return Verdict.UNKNOWN
        return Verdict.AGREES if self.claim.low <= self.value <= self.claim.high else Verdict.DOES_NOT


def verdict_of(judged: Sequence[Judged]) -> Verdict:
    """The verdict on a paper: ``partly`` where some agree and others do not or have no number."""
    verdicts = {one.verdict for one in judged}
    if Verdict.AGREES in verdicts:
        return Verdict.AGREES if len(verdicts) == 1 else Verdict.PARTLY
    return Verdict.DOES_NOT if Verdict.DOES_NOT in verdicts else Verdict.UNKNOWN


def judge(claims: Sequence[PaperClaim], collected: Collected) -> list[Judged]:
    """Every claim with its number."""
    return [Judged(claim, taken(claim.quantity, collected)) for claim in claims]
