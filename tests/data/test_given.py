"""Pairs (x, y) in memory."""

import numpy as np
import pandas as pd
import pytest

from scaled_sgd.core.errors import UserError
from scaled_sgd.data.given import given


def test_pandas_pair_keeps_names_and_rows() -> None:
    x = pd.DataFrame({"size": [1.5, 2.5], "colour": ["red", "blue"]}, index=[7, 3])
    for y in (pd.Series([0, 1], index=[7, 3]), np.array([0, 1]), [0, 1]):
        assert given((x, y)).splits["train"].to_dict() == {
            "size": [1.5, 2.5],
            "colour": ["red", "blue"],
            "y": [0, 1],
        }


def test_pairs_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(UserError, match="5 rows of x and 4 of y"):
        given((np.zeros((5, 2)), np.zeros(4)))
    with pytest.raises(UserError, match="column 'y' of x"):
        given((pd.DataFrame({"y": [1.0]}), [1]))
