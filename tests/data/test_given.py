"""Pairs (x, y) in memory."""

from typing import Any

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
    with pytest.raises(UserError, match="type Series does not fit; allowed: a pair"):
        given(pd.Series([1.0]))
    with pytest.raises(UserError, match="rows of 1 and of 2 values in x"):
        given(([[1.0, 2.0], [3.0]], [0, 1]))


def test_pairs_of_lists_are_those_of_their_arrays() -> None:
    x, y = [[1.0, 2.0], [3.0, 4.0]], [0, 1]
    expected = given((np.array(x), np.array(y))).splits["train"].to_dict()
    assert given((x, y)).splits["train"].to_dict() == expected
    mixed = given((((1.0, "a"), (None, "b")), y)).splits["train"].to_dict()
    assert mixed == {"x_1": [1.0, None], "x_2": ["a", "b"], "y": [0, 1]}
    images = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert given((images, y)).splits["train"].to_dict()["x"] == images


@pytest.mark.parametrize("source", [{1, 2}, {"x": [1.0], "y": [1.0, 2.0]}, ([1.0, "a"], [1, 2])])
def test_messages_for_data_in_memory_name_no_files(source: Any) -> None:
    with pytest.raises(UserError, match=r"^source: .*; allowed: a pair \(x, y\)") as refused:
        given(source)
    assert "parquet" not in str(refused.value)
