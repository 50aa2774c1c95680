"""Marks of keys, and the numbers that they take."""

from enum import Enum
from typing import Annotated

from scaled_sgd.config.values import Within


class Decides(Enum):
    """What a key decides, and hence when it may change."""

    SHAPES = "shapes of weights: a resumed run may not change it"
    WEIGHTS = "weights: a resumed run may change it where run.accept_changes names it"
    RECORDS = "what is seen of a run: a resumed run may change it"
    NOTHING = "nothing but rounding: runs that differ in it alone are the same run of a study"


class Stacked(Enum):
    """Marks keys that may differ among networks trained as one stack."""

    YES = True


SHAPES, RECORDS, NOTHING, STACKED = Decides.SHAPES, Decides.RECORDS, Decides.NOTHING, Stacked.YES

Count = Annotated[int, Within(1)]
Natural = Annotated[int, Within(0)]
NonNegative = Annotated[float, Within(0)]
Positive = Annotated[float, Within(above=0)]
Fraction = Annotated[float, Within(above=0, below=1)]
