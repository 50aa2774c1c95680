"""Saves that are killed, or lose their power, at any operation and byte."""

import signal

import pytest

from scaled_sgd.runs.checkpoint import newest_intact, prune, save
from tests.copies import context, ready
from tests.runs.checkpoint.cases import assert_holds, pieces, whole
from tests.runs.checkpoint.faults import Faults

pytestmark = pytest.mark.slow

SAVES = [(2, 2), (3, 3), (3, 30), (4, 4), (4, 40)]
"""Steps in the order in which they are saved, and the seed of their numbers."""


def save_seed(folder, step, seed):
    save(folder, step, pieces=pieces(whole(seed), "replica"), private={}, state={"seed": seed})


def saves(folder, done):
    """Save and prune as a run does, over and over the same steps too; ``done`` hears of each end."""
    for step, seed in SAVES:
        save_seed(folder, step, seed)
        done(seed)
        prune(folder, 2, ())


def killed_saves(folder, at, power, pipe):
    with Faults(at, seed=at, power=power):
        saves(folder, pipe.send)


def run_until_killed(folder, at, power):
    """The seed of the last save that returned, 1 if none did."""
    ready()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=killed_saves, args=(folder, at, power, sender))
    process.start()
    sender.close()
    last = 1
    try:
        while True:
            last = receiver.recv()
    except EOFError:
        process.join()
    assert process.exitcode == -signal.SIGKILL
    return last


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("power", [False, True], ids=["killed", "without power"])
def test_after_a_kill_at_any_point_the_newest_checkpoint_is_complete(tmp_path, power, stride):
    """Every file operation of several saves in ``make full``, every seventh otherwise."""
    save_seed(tmp_path / "counted", 1, 1)
    with Faults(at=0) as faults:
        saves(tmp_path / "counted", lambda _: None)
    order = [(1, 1), *SAVES]
    seeds = [seed for _, seed in order]
    for at in range(1, faults.count + 1, stride):
        folder = tmp_path / str(at)
        save_seed(folder, 1, 1)
        last = seeds.index(run_until_killed(folder, at, power))
        checkpoint, skipped = newest_intact(folder)
        assert skipped == [], at
        found = seeds.index(checkpoint.state["seed"])
        assert found in (last, last + 1), at
        assert_holds(checkpoint, order[found][0], seed=order[found][1])
        save_seed(folder, 9, 9)
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")], at
        assert_holds(newest_intact(folder)[0], 9)
