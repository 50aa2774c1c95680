"""Runs killed at random points, in steps and in saves, go on to the very numbers of the uninterrupted run."""

import functools
import random
import signal
import time

import pytest

from tests.checkpoint.faults import Faults
from tests.faults.runs import assert_same, finish, kill_after, rows, start

pytestmark = pytest.mark.slow

OPERATIONS, TIMES = 72, 36
"""Kill points at file operations, half of them with what a power cut loses, and at moments."""


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


@pytest.mark.parametrize("power", [False, True], ids=["killed", "without power"])
def test_a_run_killed_at_any_file_operation_goes_on_to_the_same_end(uninterrupted, tmp_path, power):
    reference, operations, _ = uninterrupted
    chosen = random.Random(int(power)).sample(range(1, operations + 1), OPERATIONS // 2)
    for at in chosen:
        folder = tmp_path / str(at)
        folder.mkdir()
        killed = start(folder, prepare=functools.partial(Faults, at, seed=at, power=power))
        killed.join()
        assert killed.exitcode == -signal.SIGKILL, at
        finish(folder)
        assert_same(folder, reference)


def test_a_run_killed_at_any_moment_again_and_again_goes_on_to_the_same_end(uninterrupted, tmp_path):
    reference, _, seconds = uninterrupted
    moments = random.Random(7)
    kills = 0
    for trial in range(TIMES // 3):
        folder = tmp_path / str(trial)
        folder.mkdir()
        for _ in range(3):
            killed = start(folder, prepare=functools.partial(kill_after, moments.uniform(0, seconds)))
            killed.join()
            assert killed.exitcode in (0, -signal.SIGKILL)
            kills += killed.exitcode != 0
        finish(folder)
        assert_same(folder, reference)
    assert kills >= TIMES // 2
