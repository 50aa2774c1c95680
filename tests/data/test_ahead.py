"""Items are made one ahead, in order, and no further."""

import pytest

from scaled_sgd.data.ahead import ahead


def test_items_come_in_order_and_errors_in_their_place():
    def items():
        yield from range(3)
        raise ValueError("broken row")

    found = ahead(items())
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken row"):
        next(found)


def test_one_item_is_made_ahead_and_none_after_the_end():
    made = []

    def items():
        for number in range(9):
            made.append(number)
            yield number

    found = ahead(items())
    assert next(found) == 0
    found.close()
    assert made == [0, 1]
