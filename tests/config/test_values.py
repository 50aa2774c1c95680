"""Types and limits: what they read, what they refuse, and in which words they say so."""

import math
from typing import Annotated, Any, Literal

import pytest

from scaled_sgd.config.values import (
    Holds,
    MisfitError,
    OneOf,
    Within,
    allowed,
    choices,
    read,
    shown,
    takes_text,
)
from scaled_sgd.core.registry import Registry

COUNT = Annotated[int, Within(1)]
NAMES: Registry[str] = Registry("names")
for name in ("a", "b"):
    NAMES.add(name, name)
NAMED = Annotated[str, OneOf(NAMES, also=("auto",))]
EVEN = Annotated[int, Holds(lambda n: n % 2 == 0, "even integers")]


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "integers"),
        (float, "numbers"),
        (bool, "true, false"),
        (str, "text"),
        (str | None, "text, or null"),
        (Literal["a", "b"], "a, b"),
        (list[str], "a list such as [a, b]"),
        (list[COUNT], "a list of integers from 1"),
        (tuple[float, float], "a list of 2 numbers"),
        (COUNT | None, "integers from 1, or null"),
        (Annotated[COUNT | None, "remark"], "integers from 1, or null"),
        (Annotated[int, Within(1, 9)], "integers from 1 to 9"),
        (Annotated[float, Within(0)], "finite numbers from 0"),
        (Annotated[float, Within(0, below=1)], "numbers from 0 to below 1"),
        (Annotated[float, Within(above=0)], "finite numbers above 0"),
        (Annotated[float, Within(above=0, below=1)], "numbers between 0 and 1"),
        (Annotated[float, Within(above=0, most=1e9)], "numbers above 0 to 1e9"),
        (Annotated[float, Within(0.5, 2.5)], "numbers from 0.5 to 2.5"),
        (NAMED, "auto, a, b"),
        (EVEN, "even integers"),
        (Literal["x"] | EVEN, "x, or even integers"),
    ],
)
def test_what_is_allowed_is_said_in_words(hint, words):
    assert allowed(hint) == words


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, 3, 3),
        (float, 3, 3.0),
        (float, 2**70, math.inf),
        (bool, True, True),
        (int | None, None, None),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (tuple[float, float], [1, 2], (1.0, 2.0)),
        (Literal["a"] | tuple[float, float], "a", "a"),
        (NAMED, "auto", "auto"),
        (EVEN, 4, 4),
    ],
)
def test_a_value_is_read_as_its_type_has_it(hint, value, expected):
    found = read(hint, value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, 3.0),
        (int, True),
        (int, "3"),
        (float, "3"),
        (float, True),
        (bool, 1),
        (str, 3),
        (str, None),
        (int | None, "x"),
        (Literal["a"], "b"),
        (Literal["a"], ["a"]),
        (list[str], "a"),
        (list[str], [1]),
        (tuple[float, float], [1]),
        (tuple[float, float], [1, "x"]),
        (NAMED, 3),
    ],
)
def test_another_type_is_refused(hint: Any, value: Any) -> None:
    with pytest.raises(TypeError):
        read(hint, value)


@pytest.mark.parametrize(
    ("hint", "value", "words"),
    [
        (COUNT, 0, "integers from 1"),
        (COUNT | None, 0, "integers from 1, or null"),
        (int, 2**63, "integers below 2**63"),
        (Annotated[float, Within(0)], math.nan, "finite numbers from 0"),
        (Annotated[float, Within(0)], math.inf, "finite numbers from 0"),
        (NAMED, "c", "auto, a, b"),
        (EVEN, 3, "even integers"),
    ],
)
def test_a_value_outside_its_limits_is_refused_in_words(hint, value, words):
    with pytest.raises(MisfitError) as error:
        read(hint, value)
    assert error.value.args[1] == words
    assert value != value or error.value.args[0] == value


def test_a_name_counts_from_when_it_is_registered():
    NAMES.add("c", "c")
    try:
        assert read(NAMED, "c") == "c"
        assert choices(NAMED) == ("auto", "a", "b", "c")
    finally:
        NAMES.remove("c")


def test_values_are_shown_as_in_yaml():
    assert [shown(value) for value in (None, True, "a", 1.5, (1.0, 2.0))] == [
        "null", "true", "'a'", "1.5", "[1.0, 2.0]",
    ]  # fmt: skip


@pytest.mark.parametrize(("hint", "taken"), [(str | None, True), (Literal["3"], True), (int | None, False)])
def test_an_option_for_text_is_text_as_it_stands(hint, taken):
    assert takes_text(hint, "3") is taken
