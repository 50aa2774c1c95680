"""The first 20 steps of every path against those of an earlier version, in float64."""

import json
from pathlib import Path

import pytest

import scaled_sgd
from scaled_sgd.config.parsing import parse
from scaled_sgd.data import load_data
from scaled_sgd.runs.checkpoint import newest_intact
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.study.small.engine import train
from scaled_sgd.train.main import main
from tests import replays
from tests.training import run_all

WANTED = json.loads((Path(__file__).parent / "fixtures/a1b3a8a/numbers.json").read_text())
DOORS = replays.Doors(
    package=scaled_sgd,
    main=main,
    run_all=run_all,
    parse=parse,
    load_data=load_data,
    train_small=lambda config, data, folder: train([config], [data], [folder])[0],
    train_batch=train,
    read_metrics=read_metrics,
    newest_intact=newest_intact,
)
TOLERANCE = 1e-12


def assert_same(found, wanted, tolerance=TOLERANCE):
    difference, where = replays.largest_difference(found, wanted)
    assert difference <= tolerance, where


@pytest.mark.usefixtures("fresh_world")
@pytest.mark.parametrize("name", replays.ONE_PROCESS)
def test_a_run_of_the_trainer(name, tmp_path):
    assert_same(replays.one_process(DOORS, name, tmp_path), WANTED["one_process"][name])


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    return replays.two_processes(DOORS, tmp_path_factory.mktemp("two"))


@pytest.mark.slow
@pytest.mark.parametrize("name", replays.TWO_PROCESSES)
def test_a_run_of_two_processes(name, by_two):
    assert_same(by_two[name], WANTED["two_processes"][name])


@pytest.fixture(scope="module")
def by_zero(tmp_path_factory):
    pytest.importorskip("deepspeed")
    return replays.two_processes(DOORS, tmp_path_factory.mktemp("zero"), replays.ZERO)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("name", replays.ZERO)
def test_a_run_under_zero(name, by_zero):
    assert_same(by_zero[name], WANTED["zero"][name], tolerance=1e-5)


@pytest.mark.parametrize("name", replays.SMALL_RUNS)
def test_a_small_run(name, tmp_path):
    assert_same(replays.small_run(DOORS, name, tmp_path), WANTED["small_runs"][name])


@pytest.mark.parametrize("name", replays.STACKS)
def test_a_stack_of_runs(name, tmp_path):
    found, wanted = replays.stack(DOORS, name, tmp_path), WANTED["stacks"][name]
    assert found.keys() == wanted.keys()
    for place in wanted:
        assert_same(found[place], wanted[place])


@pytest.mark.parametrize("kind", ["hook", "optimizer"])
@pytest.mark.parametrize("name", replays.BY_HAND)
def test_a_loop_over_autograd(kind, name):
    found = replays.by_hand(DOORS, with_hook=kind == "hook", **replays.BY_HAND[name])
    assert_same(found, WANTED[kind][name])


def test_the_public_diagnostics():
    assert_same(replays.diagnostics(DOORS), WANTED["diagnostics"]["by_hand"])


def test_a_figure_that_is_missing_or_moved_is_seen():
    wanted = {"loss": [1.0, 2.0], "taylor": [None, {"c1": -1e-3}]}
    assert replays.largest_difference(wanted | {"more": [1]}, wanted) == (0.0, "taylor")
    for found in (
        {"loss": [1.0, 2.0]},
        {"loss": [1.0], "taylor": [None, {"c1": -1e-3}]},
        {"loss": [1.0, 2.0], "taylor": [None, {}]},
        {"loss": [1.0, float("nan")], "taylor": [None, {"c1": -1e-3}]},
        {"loss": [1.0, 2.0], "taylor": [None, {"c1": -1.001e-3}]},
    ):
        assert replays.largest_difference(found, wanted)[0] > 1e-4
