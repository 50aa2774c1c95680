"""The ``paper`` and the ``claims`` of a study file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaled_sgd.core.errors import UserError
from scaled_sgd.study.claims.quantity import RunQuantity, read_quantity

_PAPER = ("cite", "arxiv", "differs", "full", "remark")
_CLAIM = ("says", "measure", "column", "where", "along", "take", "expect")


@dataclass(frozen=True)
class PaperClaim:
    """A sentence of a paper, and the range of a quantity in which the runs agree with it.

    Attributes:
        says: the sentence.
        quantity: what is computed.
        low: the lowest value that agrees.
        high: the highest one.
    """

    says: str
    quantity: RunQuantity
    low: float
    high: float


@dataclass(frozen=True)
class Paper:
    """The paper that a study repeats.

    Attributes:
        cite: authors, title and year.
        arxiv: its number; empty for none.
        differs: how the setting here differs from the paper's.
        full: options of the study at full size; empty for none.
        remark: why a claim came out otherwise, or another remark on the results.
    """

    cite: str
    arxiv: str
    differs: str
    full: str
    remark: str


def read_paper(found: object) -> Paper | None:
    """The paper of a study file; None stands for none.

    Raises:
        UserError: it is no group of texts.
    """
    if found is None:
        return None
    if (
        not isinstance(found, dict)
        or not found.keys() <= set(_PAPER)
        or not all(isinstance(text, str) for text in found.values())
        or not found.get("cite")
    ):
        raise UserError(f"paper: {found!r} is not usable; allowed: texts {', '.join(_PAPER)}")
    return Paper(**{name: " ".join(found.get(name, "").split()) for name in _PAPER})


def read_claims(found: object, axes: Sequence[str]) -> list[PaperClaim]:
    """The claims of a study file with these axes.

    Raises:
        UserError: a key is missing, unknown or not usable.
    """
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError("claims: not a list of groups; allowed: - says: …, measure: …, expect: {from: 0.9}")
    return [_claim(f"claims.{place}", one, axes) for place, one in enumerate(found, start=1)]


def _claim(place: str, found: Mapping[str, Any], axes: Sequence[str]) -> PaperClaim:
    for key in found:
        if key not in _CLAIM:
            raise UserError(f"{place}.{key}: unknown key; allowed: {', '.join(_CLAIM)}")
    says = found.get("says")
    if not isinstance(says, str) or not says.strip():
        raise UserError(f"{place}.says: {says!r} is not usable; allowed: the sentence of the paper")
    quantity = read_quantity(place, found, axes)
    if bool(quantity.along) != bool(quantity.take):
        raise UserError(f"{place}: along and take belong together; allowed: both or none")
    expect = found.get("expect")
    bounds = list(expect.values()) if isinstance(expect, dict) and expect.keys() <= {"from", "to"} else []
    if not bounds or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in bounds):
        raise UserError(f"{place}.expect: {expect!r} is not usable; allowed: {{from: 0.9, to: 1.1}}, or one")
    assert isinstance(expect, dict)
    low, high = expect.get("from", -math.inf), expect.get("to", math.inf)
    return PaperClaim(" ".join(says.split()), quantity, float(low), float(high))
