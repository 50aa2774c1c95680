import os

import pytest

from scaled_sgd.core.errors import CheckpointError
from scaled_sgd.runs.checkpoint import newest_intact, prune, save
from scaled_sgd.runs.checkpoint.folders import step_of, steps_in
from tests.runs.checkpoint.cases import assert_holds, pieces, whole
from tests.runs.checkpoint.faults import Faults

NONCE = "0123456789abcdef"


def make(folder, *names):
    for name in names:
        (folder / name).mkdir()
        (folder / name / "manifest.json").touch()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save_step(folder, step, seed):
    return save(folder, step, pieces=pieces(whole(seed), "replica"), private={}, state={})


@pytest.mark.parametrize(
    ("keep", "named", "kept"),
    [
        (2, (), ["step-10", "step-9"]),
        (1, (), ["step-10"]),
        (9, (), ["step-1", "step-10", "step-2", "step-9"]),
        (1, {1, 5}, ["step-1", "step-10"]),
        (0, {2}, ["step-2"]),
        (0, (), []),
        (1, range(0, 100, 2), ["step-10", "step-2"]),
    ],
)
def test_the_newest_and_the_named_steps_are_kept(tmp_path, keep, named, kept):
    make(tmp_path, "step-1", "step-2", "step-9", "step-10")
    gone = prune(tmp_path, keep, named)
    assert names(tmp_path) == kept
    assert {f"step-{step}" for step in gone} == {"step-1", "step-2", "step-9", "step-10"} - set(kept)


def test_other_names_and_links_are_never_touched(tmp_path):
    others = ["best", "step-01", "step-3.bak", "step-x", f".step-4.{NONCE}", ".git"]
    make(tmp_path, *others, "step-3")
    (tmp_path / "step-7").symlink_to(tmp_path / "best")
    (tmp_path / "step-8").touch()
    prune(tmp_path, 0, ())
    assert names(tmp_path) == sorted([*others, "step-7", "step-8"])


def test_pruning_nothing_is_nothing(tmp_path):
    assert prune(tmp_path / "missing", 3, ()) == []
    with pytest.raises(ValueError, match="keep: -1"):
        prune(tmp_path, -1, ())


def test_a_folder_that_cannot_be_moved_is_one_line(tmp_path):
    make(tmp_path, "step-1")
    with (
        pytest.raises(CheckpointError, match=r"cannot write '.*': Permission denied; allowed"),
        Faults(at=1, failure=PermissionError(13, "Permission denied")),
    ):
        prune(tmp_path, 0, ())
    assert names(tmp_path) == ["step-1"]


def test_a_step_is_moved_out_of_sight_before_any_of_it_is_deleted(tmp_path, monkeypatch):
    make(tmp_path, "step-1", "step-2")
    seen = []
    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", lambda *a, **k: (seen.append(steps_in(tmp_path)), unlink(*a, **k)))
    prune(tmp_path, 1, ())
    assert seen == [[2]]


@pytest.mark.parametrize(
    ("name", "step"),
    [("step-0", 0), ("step-12", 12), ("step-012", None), ("step-1.x", None), (".step-1", None)],
)
def test_a_step_has_one_name(name, step):
    assert step_of(name) == step


@pytest.mark.parametrize("next_action", ["open", "save"])
def test_a_replacement_cut_between_its_renames_is_finished(tmp_path, next_action):
    save_step(tmp_path, 4, seed=40).rename(tmp_path / f".step-4.{NONCE}.old")
    save_step(tmp_path / "new", 4, seed=41).rename(tmp_path / f".step-4.{NONCE}")
    (tmp_path / "new").rmdir()
    if next_action == "save":
        save_step(tmp_path, 3, seed=3)
        assert names(tmp_path) == ["step-3", "step-4"]
    checkpoint, skipped = newest_intact(tmp_path)
    assert skipped == []
    assert_holds(checkpoint, 4, seed=41)
