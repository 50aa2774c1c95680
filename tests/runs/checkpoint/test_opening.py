import hashlib
import json
import re

import pytest
import torch

from scaled_sgd.core.errors import UserError
from scaled_sgd.runs.checkpoint import newest_intact, open_checkpoint, save
from tests.runs.checkpoint.cases import assert_holds, pieces, whole


@pytest.fixture
def run(tmp_path):
    """A folder with the intact steps 1 and 2."""
    for step in (1, 2):
        random = {"cpu": torch.arange(5, dtype=torch.uint8)}
        save(tmp_path, step, pieces=pieces(whole(step), "replica"), private=random, state={"step": step})
    return tmp_path


def assert_refused(run, reason):
    """Step 2 is refused with exactly one line, and step 1 taken instead."""
    path = run / "step-2"
    line = f"checkpoint: '{path}' is damaged: {reason}; allowed: an intact checkpoint"
    with pytest.raises(UserError) as error:
        open_checkpoint(path)
    assert str(error.value) == line
    checkpoint, skipped = newest_intact(run)
    assert skipped == [line]
    assert_holds(checkpoint, 1)


def rewrite(run, change):
    """Change the manifest of step 2 and sign it anew, as someone would who wants it to be believed."""
    path = run / "step-2" / "manifest.json"
    body = json.loads(path.read_text())
    del body["sha256"]
    change(body)
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps(body | {"sha256": hashlib.sha256(text).hexdigest()}))


def test_the_newest_intact_checkpoint_is_found(run):
    checkpoint, skipped = newest_intact(run)
    assert skipped == []
    assert_holds(checkpoint, 2)
    assert checkpoint.path == run / "step-2"


def test_steps_are_ordered_as_numbers_and_other_names_are_no_steps(run):
    save(run, 10, pieces=pieces(whole(10), "replica"), private={}, state={})
    for name in ("step-011", "step-12x", "best", "step--3", "step-٣"):
        (run / name).mkdir()
    (run / "step-99").touch()
    assert_holds(newest_intact(run)[0], 10)


def test_without_checkpoints_there_is_none(tmp_path):
    assert newest_intact(tmp_path) == (None, [])
    assert newest_intact(tmp_path / "missing") == (None, [])


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        open_checkpoint(tmp_path / "step-1")
    assert str(error.value) == (
        f"checkpoint: '{tmp_path}/step-1' is not there; allowed: the folder of a checkpoint"
    )


def test_a_renamed_checkpoint_opens_and_one_renamed_to_another_step_does_not(run):
    (run / "step-1").rename(run / "best")
    assert_holds(open_checkpoint(run / "best"), 1)
    (run / "best").rename(run / "step-7")
    with pytest.raises(UserError, match="is damaged: its manifest is of step 1; allowed"):
        open_checkpoint(run / "step-7")


@pytest.mark.parametrize("name", ["rank-0.safetensors", "state.json"])
def test_a_truncated_file_is_refused(run, name):
    path = run / "step-2" / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    assert_refused(run, f"{name} has {size // 2} bytes, its manifest says {size}")


@pytest.mark.parametrize("name", ["rank-0.safetensors", "state.json"])
def test_any_flipped_byte_is_refused(run, name):
    path = run / "step-2" / name
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), max(1, len(content) // 20)):
        content[position] ^= 1
        path.write_bytes(content)
        assert_refused(run, f"{name} has another checksum than its manifest says")
        content[position] ^= 1


def test_any_flipped_byte_of_the_manifest_is_refused(run):
    path = run / "step-2" / "manifest.json"
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), 7):
        content[position] ^= 1
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged: (its|manifest)"):
            open_checkpoint(run / "step-2")
        content[position] ^= 1


@pytest.mark.parametrize("name", ["rank-0.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_refused(run, name):
    (run / "step-2" / name).unlink()
    assert_refused(run, f"{name} is missing")


@pytest.mark.parametrize("name", ["rank-0.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_is_not_a_file_is_refused(run, name, kind):
    path = run / "step-2" / name
    path.rename(run / "outside")
    if kind == "link":
        path.symlink_to(run / "outside")
    else:
        path.mkdir()
    assert_refused(run, f"{name} is not a regular file")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", "[" * 100_000, "\xff", '{"sha256": 1, "format": 1}']
)
def test_what_is_not_a_manifest_is_refused(run, text):
    (run / "step-2" / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(
        UserError, match=r"is damaged: (its manifest has another checksum|manifest.json is not a)"
    ):
        open_checkpoint(run / "step-2")


def renamed(name):
    def change(body):
        body["files"][name] = body["files"].pop("rank-0.safetensors")
        for entry in body["tensors"].values():
            for extent in entry["extents"]:
                extent[2] = name

    return change


@pytest.mark.parametrize(
    "name", ["../step-1/rank-0.safetensors", "/etc/passwd", "rank-1.safetensors", "rank-00.safetensors"]
)
def test_a_manifest_cannot_name_a_file_of_its_own(run, name):
    rewrite(run, renamed(name))
    assert_refused(run, f"its manifest names the file {name!r}")


def test_extents_cannot_name_a_file_of_their_own(run):
    rewrite(run, lambda body: body["tensors"]["weight.1"]["extents"][0].__setitem__(2, "../x"))
    assert_refused(run, "its manifest names the file '../x'")


def extent(position, value):
    return lambda body: body["tensors"]["weight.1"]["extents"][0].__setitem__(position, value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda body: body.update(format=2), "its format is 2, this version reads 1"),
        (lambda body: body.update(step=3), "its manifest is of step 3"),
        (lambda body: body.update(step=True), "its manifest has True where a count belongs"),
        (lambda body: body.update(world_size=2), "its manifest of 2 ranks lacks rank-1.safetensors"),
        (
            lambda body: body.update(world_size=10**12),
            f"its manifest of {10**12} ranks lacks rank-1.safetensors",
        ),
        (lambda body: body["files"].pop("state.json"), "its manifest of 1 ranks lacks state.json"),
        (lambda body: body.pop("tensors"), "manifest.json is not a manifest"),
        (lambda body: body.update(tensors=[1]), "manifest.json is not a manifest"),
        (extent(1, 29), "its manifest has 29 of 30 numbers of weight.1"),
        (extent(1, 31), "its manifest has 31 of 30 numbers of weight.1"),
        (extent(1, -1), "its manifest has -1 where a count belongs"),
        (extent(1, 0), "its manifest has weight.1 with a gap or overlap at 0"),
        (extent(0, 1), "its manifest has weight.1 under the key 'pieces/weight.1/0'"),
        (extent(3, "pieces/order/0"), "its manifest has weight.1 under the key 'pieces/order/0'"),
        (
            lambda body: body["tensors"]["weight.1"].update(dtype="F32"),
            "rank-0.safetensors has another type or size of weight.1 than its manifest says",
        ),
        (
            lambda body: body["tensors"]["weight.1"].update(dtype="F8"),
            "its manifest has weight.1 of type 'F8'",
        ),
        (
            lambda body: body["tensors"].update(
                other={
                    "shape": [1],
                    "dtype": "F32",
                    "extents": [[0, 1, "rank-0.safetensors", "pieces/other/0"]],
                }
            ),
            "rank-0.safetensors lacks other",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(run, change, reason):
    rewrite(run, change)
    assert_refused(run, reason)


def test_a_rank_file_of_another_kind_is_refused(run):
    path = run / "step-2" / "rank-0.safetensors"
    content = b"\x80\x04pickle" * 10
    path.write_bytes(content)
    facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(run, lambda body: body["files"].update({"rank-0.safetensors": facts}))
    assert_refused(run, "rank-0.safetensors is not a safetensors file")


def test_several_damaged_checkpoints_are_each_accounted_for(run):
    (run / "step-2" / "state.json").unlink()
    (run / "step-1" / "manifest.json").unlink()
    checkpoint, skipped = newest_intact(run)
    assert checkpoint is None
    assert [line.split(": ", 1)[1] for line in skipped] == [
        f"'{run}/step-2' is damaged: state.json is missing; allowed: an intact checkpoint",
        f"'{run}/step-1' is damaged: manifest.json is missing; allowed: an intact checkpoint",
    ]


def test_what_a_checkpoint_lacks_is_one_line(run):
    checkpoint = open_checkpoint(run / "step-2")
    lines = {
        lambda: checkpoint.read(
            "weight.9", 0, 1
        ): f"has no tensor 'weight.9'; allowed: {', '.join(checkpoint.names)}",
        lambda: checkpoint.shape(
            "weight.9"
        ): f"has no tensor 'weight.9'; allowed: {', '.join(checkpoint.names)}",
        lambda: checkpoint.read("order", 3, 12): "has no numbers 3 to 12 of 'order'; allowed: 0 to 11",
        lambda: checkpoint.read("order", -1, 2): "has no numbers -1 to 2 of 'order'; allowed: 0 to 11",
        lambda: checkpoint.private(1): "has no rank 1; allowed: 0 to 0",
    }
    for ask, line in lines.items():
        with pytest.raises(UserError, match=re.escape(f"checkpoint: '{run}/step-2' {line}")):
            ask()


def test_a_file_that_goes_after_it_was_verified_is_one_line(run):
    checkpoint = open_checkpoint(run / "step-2")
    (run / "step-2" / "rank-0.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"cannot read '.*/step-2/rank-0.safetensors': .*; allowed: an intact"
    ):
        checkpoint.read("order", 0, 1)
