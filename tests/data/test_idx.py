"""Images and labels in IDX files, as MNIST and Fashion-MNIST come."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaled_sgd.data import Resident
from tests.data.sources import load, refusal, unit

IMAGES = np.random.default_rng(0).integers(1, 256, (6, 2, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.uint8)


def write(path: Path, values: np.ndarray[Any, Any]) -> Path:
    head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        gzip.compress(head + values.tobytes()) if path.suffix == ".gz" else head + values.tobytes()
    )
    return path


def pair(folder: Path, part: str, style: str, images: Any = IMAGES, labels: Any = LABELS) -> Path:
    write(folder / style.format(f"{part}-labels", 1), labels)
    return write(folder / style.format(f"{part}-images", 3), images)


@pytest.mark.parametrize(
    "style", ["{}-idx{}-ubyte", "{}-idx{}-ubyte.gz", "{}.idx{}-ubyte", "{}.idx{}-ubyte.gz"]
)
def test_the_official_test_set_is_held_out(tmp_path: Path, style: str) -> None:
    pair(tmp_path, "train", style)
    pair(tmp_path, "t10k", style, IMAGES[::-1], LABELS[::-1])
    data = load(tmp_path)
    assert isinstance(data.train, Resident)
    assert (data.in_features, data.class_names) == (6, ("0", "1", "2"))
    torch.testing.assert_close(data.train.x, unit(IMAGES.reshape(6, 6)))
    torch.testing.assert_close(data.evaluation.x, unit(IMAGES[::-1].reshape(6, 6).copy()))
    assert data.train.y.tolist() == LABELS.tolist()
    assert data.evaluation.y.tolist() == LABELS[::-1].tolist()


def test_without_an_official_test_set_a_part_is_held_out(tmp_path: Path) -> None:
    file = pair(tmp_path, "train", "{}-idx{}-ubyte")
    for source in (tmp_path, file):
        data = load(source)
        assert isinstance(data.train, Resident)
        assert (len(data.train), len(data.evaluation)) == (5, 1)
    pair(tmp_path, "t10k", "{}-idx{}-ubyte")
    assert load(tmp_path).config.eval_split == "test"
    assert load(tmp_path, eval_split=None).config.eval_split is None
    assert len(load(tmp_path, eval_split=None).evaluation) == 6
    assert len(load(tmp_path, split="test").evaluation) == 1
    assert len(load(tmp_path, split="test", eval_split="train").evaluation) == 6


def test_packed_files_beside_their_unpacked_ones_are_one_set(tmp_path: Path) -> None:
    pair(tmp_path, "emnist-letters-train", "{}-idx{}-ubyte.gz", labels=LABELS + 1)
    pair(tmp_path, "emnist-letters-train", "{}-idx{}-ubyte", labels=LABELS + 1)
    pair(tmp_path, "emnist-letters-test", "{}-idx{}-ubyte", labels=LABELS + 1)
    data = load(tmp_path)
    assert data.class_names == ("1", "2", "3")
    assert len(data.evaluation) == 6
    pair(tmp_path, "emnist-digits-train", "{}-idx{}-ubyte")
    assert "it holds several data sets" in refusal(tmp_path)


def damaged(folder: Path, what: str) -> None:
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    content = images.read_bytes()
    if what == "magic":
        images.write_bytes(b"\0\0\x0d\x03" + content[4:])
    elif what == "swapped":
        images.write_bytes(labels.read_bytes())
    elif what == "cut":
        images.write_bytes(content[:-1])
    elif what == "long":
        images.write_bytes(content + b"\0")
    elif what == "head":
        images.write_bytes(content[:7])
    elif what == "empty":
        images.write_bytes(b"")
    elif what == "claims":
        images.write_bytes(content[:4] + b"\xff" * 12 + content[16:])
    elif what == "no pixels":
        write(images, IMAGES[:, :, :0])
    elif what == "counts":
        write(labels, LABELS[:5])
    elif what == "no labels":
        labels.unlink()
    else:
        images.rename(images.with_name(f"{images.name}.gz"))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("magic", "begins with 00000d03; allowed: 00000803"),
        ("swapped", "begins with 00000801; allowed: 00000803"),
        ("cut", "is cut off or too long: it claims 36 values of (6, 2, 3)"),
        ("long", "is cut off or too long: it claims 36 values of (6, 2, 3)"),
        ("head", "is cut off or too long"),
        ("empty", "begins with nothing"),
        ("claims", "is cut off or too long: it claims 79,228,162,458,924,105,385,300,197,375 values"),
        ("no pixels", "holds nothing"),
        ("counts", "'train-images-idx3-ubyte' holds 6 images, 'train-labels-idx1-ubyte' 5 labels"),
        ("no labels", "there are no labels for 'train-images-idx3-ubyte'"),
        ("not packed", "Not a gzipped file"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, what: str, said: str) -> None:
    pair(tmp_path, "train", "{}-idx{}-ubyte")
    damaged(tmp_path, what)
    message = refusal(tmp_path)
    assert message.startswith(f"data.source: cannot read {str(tmp_path)!r}: ")
    assert said in message


def test_they_are_not_streamed(tmp_path: Path) -> None:
    pair(tmp_path, "train", "{}-idx{}-ubyte")
    assert refusal(tmp_path, streaming=True, eval_split="train") == (
        "data.streaming: true does not fit IDX files, held in memory; allowed: false"
    )
