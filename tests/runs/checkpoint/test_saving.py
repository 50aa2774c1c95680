import contextlib
import errno
import os
import subprocess

import pytest
import torch

from scaled_sgd.core.errors import CheckpointError, UserError
from scaled_sgd.runs.checkpoint import Piece, newest_intact, open_checkpoint, save
from tests.runs.checkpoint.cases import assert_holds, pieces, whole
from tests.runs.checkpoint.faults import Faults


def save_step(folder, step, *, seed=None):
    seed = step if seed is None else seed
    return save(folder, step, pieces=pieces(whole(seed), "replica"), private={}, state={"seed": seed})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_read(tmp_path):
    state = {"epoch": 3, "best": float("inf"), "rate": 0.1, "nested": {"list": [1, None, True, "ü"]}}
    random = {"cpu": torch.arange(9, dtype=torch.uint8), "count": torch.tensor(7)}
    path = save(
        tmp_path / "new" / "folder", 4, pieces=pieces(whole(4), "replica"), private=random, state=state
    )
    assert path == tmp_path / "new" / "folder" / "step-4"
    assert names(path) == ["manifest.json", "rank-0.safetensors", "state.json"]
    checkpoint = open_checkpoint(path)
    assert_holds(checkpoint, 4)
    assert checkpoint.state == state
    assert checkpoint.world_size == 1
    private = checkpoint.private(0)
    assert private.keys() == random.keys()
    assert all(torch.equal(private[key], t) for key, t in random.items())


def test_any_range_is_read_from_pieces_of_any_size(tmp_path):
    t = torch.arange(20.0)
    parts = [Piece("w", (4, 5), a, t[a:b]) for a, b in [(0, 3), (3, 3), (3, 11), (9, 20)]]
    checkpoint = open_checkpoint(save(tmp_path, 0, pieces=parts, private={}, state={}))
    for start in range(21):
        for stop in range(start, 21):
            assert torch.equal(checkpoint.read("w", start, stop), t[start:stop])


def test_names_of_tensors_are_free(tmp_path):
    odd = ["../../x", "private/a", "a/0", "", "__metadata__", "π\n"]
    parts = [Piece(name, (2,), 0, torch.tensor([i, i + 1])) for i, name in enumerate(odd)]
    checkpoint = open_checkpoint(save(tmp_path, 0, pieces=parts, private={"a": torch.ones(1)}, state={}))
    assert [checkpoint.read(name, 0, 1).item() for name in odd] == list(range(len(odd)))
    assert list(checkpoint.private(0)) == ["a"]


def test_a_step_saved_again_is_replaced(tmp_path):
    save_step(tmp_path, 5)
    save_step(tmp_path, 5, seed=50)
    assert names(tmp_path) == ["step-5"]
    assert_holds(open_checkpoint(tmp_path / "step-5"), 5, seed=50)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_whatever_has_the_name_is_replaced(tmp_path, kind):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    path = tmp_path / "step-5"
    {"folder": path.mkdir, "file": path.touch, "link": lambda: path.symlink_to(elsewhere)}[kind]()
    save_step(tmp_path, 5)
    assert_holds(open_checkpoint(path), 5)
    assert names(tmp_path) == ["elsewhere", "step-5"]
    assert names(elsewhere) == ["kept"]


def test_what_dead_saves_left_is_cleared_and_nothing_else(tmp_path):
    for name in (".step-3.0123456789abcdef", ".step-2.0123456789abcdef.old", ".step-3.mine", ".git", "best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rank-0.safetensors").write_text("half")
    save_step(tmp_path, 5)
    assert names(tmp_path) == [".git", ".step-3.mine", "best", "step-5"]


def test_numbers_missing_from_a_tensor_stop_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="w: no rank holds numbers 2 to 3 of 3"):
        save(tmp_path / "run", 1, pieces=[Piece("w", (3,), 0, torch.zeros(2))], private={}, state={})
    with pytest.raises(TypeError):
        save(tmp_path / "run", 1, pieces=[], private={}, state={"x": object()})
    with pytest.raises(ValueError, match="step: -1"):
        save(tmp_path / "run", -1, pieces=[], private={}, state={})
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_the_program_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="complex64 cannot be stored"):
        save(tmp_path, 1, pieces=[], private={"x": torch.zeros(1, dtype=torch.complex64)}, state={})
    assert names(tmp_path) == []


def operations_of_a_save(folder, *older):
    for step in older:
        save_step(folder, step)
    with Faults(at=0) as faults:
        save_step(folder, 2)
    return faults.count


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_failure_of_any_operation_is_one_line_and_leaves_the_older_checkpoint(tmp_path, reason):
    why = os.strerror(reason)
    for at in range(1, operations_of_a_save(tmp_path / "counted", 1) + 1):
        folder = tmp_path / str(at)
        save_step(folder, 1)
        with pytest.raises(CheckpointError) as error, Faults(at=at, failure=OSError(reason, why)):
            save_step(folder, 2)
        line = str(error.value)
        assert line.startswith(f"checkpoint: cannot write '{folder}/step-2': ")
        assert line.endswith(f"{why}; allowed: a writable folder with room")
        assert "\n" not in line
        assert names(folder) in (["step-1"], ["step-1", "step-2"])
        for name in names(folder):
            assert_holds(open_checkpoint(folder / name), int(name[-1]))


def test_a_failure_while_replacing_leaves_one_of_the_two(tmp_path):
    for at in range(1, operations_of_a_save(tmp_path / "counted", 2) + 1):
        folder = tmp_path / str(at)
        save_step(folder, 2, seed=20)
        with contextlib.suppress(CheckpointError), Faults(at=at, failure=OSError(errno.EIO, "broken")):
            save_step(folder, 2)
        checkpoint, skipped = newest_intact(folder)
        assert not skipped
        assert_holds(checkpoint, 2, seed=checkpoint.state["seed"])
        save_step(folder, 3)
        assert names(folder) == ["step-2", "step-3"]


def test_an_interrupt_leaves_complete_checkpoints_and_nothing_else(tmp_path):
    for at in range(1, operations_of_a_save(tmp_path / "counted", 1) + 1):
        folder = tmp_path / str(at)
        save_step(folder, 1)
        with pytest.raises(KeyboardInterrupt), Faults(at=at, failure=KeyboardInterrupt()):
            save_step(folder, 2)
        assert names(folder) in (["step-1"], ["step-1", "step-2"])
        assert_holds(open_checkpoint(folder / "step-1"), 1)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root can mount a file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_one_line_and_leaves_the_older_checkpoint(small_disk):
    save_step(small_disk, 1)
    large = [Piece("w", (100_000,), 0, torch.zeros(100_000))]
    with pytest.raises(CheckpointError) as error:
        save(small_disk, 2, pieces=large, private={}, state={})
    assert str(error.value) == (
        f"checkpoint: cannot write '{small_disk}/step-2': rank-0.safetensors: No space left on device; "
        "allowed: a writable folder with room"
    )
    assert names(small_disk) == ["step-1"]
    assert_holds(newest_intact(small_disk)[0], 1)
    save_step(small_disk, 3)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write '.*file/run/step-1': run: Not a directory; allowed: "):
        save_step(tmp_path / "file" / "run", 1)
