"""Runs killed at random points, in steps and in saves, go on to the very numbers of the uninterrupted run."""

import functools
import random
import shutil
import signal
import time

import pytest

from tests.faults.runs import assert_same, finish, kill_after, rows, start
from tests.launching import PATIENCE
from tests.runs.checkpoint.faults import Faults

pytestmark = pytest.mark.slow

ALL = pytest.param(12, marks=pytest.mark.full)
"""Kill points of each kind in ``make full``; the others are a sample of them."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A finished run, its number of file operations, and its seconds."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    counted = start(folder, prepare=functools.partial(Faults, 0))
    counted.join()
    assert counted.exitcode == 0
    begun = time.monotonic()
    other = tmp_path_factory.mktemp("timed")
    finish(other)
    assert_same(other, folder)
    return folder, int((folder / "count.txt").read_text()), time.monotonic() - begun


def test_the_uninterrupted_run_logs_every_step(uninterrupted):
    assert [row["step"] for row in rows(uninterrupted[0])] == list(range(25))


@pytest.mark.parametrize("points", [2, ALL])
@pytest.mark.parametrize("power", [False, True], ids=["killed", "without power"])
def test_a_run_killed_at_any_file_operation_goes_on_to_the_same_end(uninterrupted, tmp_path, power, points):
    reference, operations, _ = uninterrupted
    chosen = random.Random(int(power)).sample(range(1, operations + 1), points)
    for at in chosen:
        folder = tmp_path / str(at)
        folder.mkdir()
        killed = start(folder, prepare=functools.partial(Faults, at, seed=at, power=power))
        killed.join(timeout=PATIENCE)
        assert killed.exitcode == -signal.SIGKILL, at
        finish(folder)
        assert_same(folder, reference)


@pytest.mark.parametrize("points", [2, ALL])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(uninterrupted, tmp_path, points):
    reference, _, seconds = uninterrupted
    moments = random.Random(7)
    for kill in range(points):
        folder = tmp_path / str(kill)
        while True:
            folder.mkdir()
            killed = start(folder, prepare=functools.partial(kill_after, moments.uniform(0, seconds)))
            killed.join(timeout=PATIENCE)
            if killed.exitcode == -signal.SIGKILL:
                break
            assert killed.exitcode == 0
            shutil.rmtree(folder)
        finish(folder)
        assert_same(folder, reference)
