"""A state whose checksum is right may still be wrong; every field that is read is checked."""

import copy
import json
import math

import pytest

from scaled_sgd.train.stored_state import check_state
from tests.launching import REPOSITORY

STORED = json.loads(
    (REPOSITORY / "tests/fixtures/a1b3a8a/fused/checkpoints/step-14/state.json").read_text(encoding="utf-8")
)
"""Of an earlier version, of a run of three layers."""


def changed(path, value):
    state = copy.deepcopy(STORED)
    *groups, leaf = path.split(".")
    place = state
    for group in groups:
        place = place[group]
    place[leaf] = value
    return state


def test_states_of_this_and_of_earlier_versions_are_right():
    check_state(STORED, 14)
    for path, value in (
        ("progressed.max_loss", 1.5), ("progressed.first_loss", math.inf), ("progressed.last_loss", None),
        ("optimizer", {"step": 14.0}), ("exchange", [True, False, True]), ("scaling.scales", None),
        ("grad_scaler", {"scale": 65536.0, "growth_interval": 2000}),
        ("schedule", None), ("schedule", 0.1), ("schedule", [0.1, None]), ("schedule", [0.1, 0.5]),
    ):  # fmt: skip
        check_state(changed(path, value), 14)


@pytest.mark.parametrize("name", ["step", "epoch", "minibatch", "samples", "metrics_bytes"])
@pytest.mark.parametrize("value", [-1, 1.0, "7", None, True, 10**30, [7]])
def test_a_count_is_an_integer_from_0(name, value):
    with pytest.raises(ValueError, match=rf"^its state has .* as progressed\.{name}$"):
        check_state(changed(f"progressed.{name}", value), 14)


@pytest.mark.parametrize(
    ("path", "value"),
    [("progressed.seconds", -1.0), ("progressed.seconds", math.nan), ("progressed.seconds", None),
     ("progressed.first_loss", -1.0), ("progressed.last_loss", "1"), ("progressed.max_loss", True),
     ("progressed.of_a_later_version", 1), ("progressed", []), ("config", None), ("data", None),
     ("scaling", None), ("scaling.rule", 1), ("scaling.static", 0), ("scaling.scales", [1.0, 2.0]),
     ("scaling.scales", ["1", "2", "3"]), ("exchange", [True]), ("exchange", [1, 0, 1]),
     ("grad_scaler", {"scale": "x"}), ("optimizer", {"step": None}), ("optimizer", [1]),
     ("schedule", [None, 0.5]), ("schedule", [0.1, "1"]), ("schedule", [0.1]), ("schedule", "0.1"),
     ("peak", "0.1")],
)  # fmt: skip
def test_a_field_of_another_form_is_named(path, value):
    with pytest.raises(ValueError, match=rf"^its state has .* as {path}$"):
        check_state(changed(path, value), 14)


def test_a_missing_field_is_named():
    for name in ("progressed", "config", "data", "scaling"):
        with pytest.raises(ValueError, match=f"^its state has None as {name}$"):
            check_state({key: value for key, value in STORED.items() if key != name}, 14)


def test_the_step_is_that_of_the_manifest():
    with pytest.raises(ValueError, match=r"^progressed\.step is 14, its manifest says 15$"):
        check_state(STORED, 15)
