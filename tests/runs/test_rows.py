"""Rows as trackers and tables have them."""

import math

import pytest

from scaled_sgd.runs import rows


def row(**measured):
    return rows.step_row(
        measured, step=4, epoch=0.5, samples=40, lr=0.1, loss=2.0, max_loss=3.0, grad_norm=None,
        scales=[1.0, 2.0], soft_ranks=[1.5, 1.25], seconds=1.0,
    )  # fmt: skip


def test_lists_over_layers_are_numbered_from_one():
    found = dict(rows.numbers(row(features={"drift": [0.0, 0.5]})))
    assert [found[f"scales.{k}"] for k in (1, 2)] == [1.0, 2.0]
    assert found["minibatch_soft_ranks.1"] == 1.5
    assert found["features.drift.2"] == 0.5
    assert math.isnan(found["grad_norm"])
    assert not any(name.endswith(".0") for name in found)


def test_a_text_is_no_number():
    with pytest.raises(ValueError, match="name is 'x', not a number"):
        dict(rows.numbers({"name": "x"}))


def test_what_is_measured_joins_the_row():
    assert row(eval_loss=1.0)["eval_loss"] == 1.0
    assert rows.losses([row(), {"step": 5, "eval_loss": 9.0}, {"loss": None}]) == [2.0, 3.0]
