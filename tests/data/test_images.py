"""Images of all depths and modes give the same numbers for the same picture, or a line that refuses them."""

import io
import json
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from scaled_sgd.data import Data, Resident
from tests.data.sources import plain as load
from tests.data.sources import png, refusal, unit

Pixels = np.ndarray[Any, Any]
DRAW = np.random.default_rng(0)
PICTURES = DRAW.integers(80, 160, (4, 3, 3))
"""Four pictures (3, 3) in 8 bits; in 16 bits they are 257 times as bright, which is the same grey."""


def encoded(image: PIL.Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def grey(picture: Pixels) -> bytes:
    return encoded(PIL.Image.fromarray(picture.astype(np.uint8)))


def deep(picture: Pixels) -> bytes:
    return encoded(PIL.Image.fromarray((picture * 257).astype(np.uint16)))


def colour(picture: Pixels) -> bytes:
    return encoded(PIL.Image.fromarray(np.repeat(picture.astype(np.uint8)[..., None], 3, axis=-1)))


def floating(picture: Pixels) -> bytes:
    return encoded(PIL.Image.fromarray(picture.astype(np.float32)), "TIFF")


def cells(path: Path, images: list[dict[str, Any]]) -> Path:
    """A parquet file of image cells and targets 0, 1, 2, ...; no cell is looked at."""
    image = pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    features = {"image": {"_type": "Image"}, "y": {"dtype": "float32", "_type": "Value"}}
    path.parent.mkdir(exist_ok=True)
    rows = pa.table({"image": image, "y": pa.array([float(i) for i in range(len(images))], pa.float32())})
    pq.write_table(
        rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path
    )
    return path


def whole(path: Path, images: list[bytes]) -> Path:
    return cells(path, [{"bytes": image, "path": None} for image in images])


def split(folder: Path, train: list[bytes], test: list[bytes], **options: Any) -> Data:
    whole(folder / "train.parquet", train)
    whole(folder / "test.parquet", test)
    return load(folder, eval_split="test", **options)


@pytest.mark.parametrize(
    ("train", "test", "channels"),
    [
        ([grey, deep, grey, deep], [grey, deep, deep, deep], 1),
        ([grey] * 4, [deep] * 4, 1),
        ([deep] * 4, [grey] * 4, 1),
        ([deep, colour, deep, deep], [deep] * 4, 3),
        ([grey, colour, deep, grey], [grey, deep, colour, grey], 3),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_are_the_same_in_8_and_16_bits(
    tmp_path: Path, train: list[Any], test: list[Any], channels: int, streaming: bool
) -> None:
    expected = unit(np.repeat(PICTURES.reshape(4, 9, 1), channels, axis=2).reshape(4, -1))
    if streaming:  # whose form comes from the held-out split
        train, test = test, train
    images = [[save(p) for save, p in zip(part, PICTURES, strict=True)] for part in (train, test)]
    data = split(tmp_path / "s", *images, streaming=streaming)
    torch.testing.assert_close(data.evaluation.x, expected)
    batch = next(data.train.batches(batch_size=4, seed=0, epoch=0))
    x, y = batch.own()
    torch.testing.assert_close(x[y.flatten().argsort()], expected)


def test_one_depth_counts_where_features_are_standardized(tmp_path: Path) -> None:
    """Without one depth, the mean over training rows would mix values of 255 and of 65,535."""
    mixed = [deep(PICTURES[0]), *map(grey, PICTURES[1:])]
    data = split(tmp_path / "s", mixed, list(map(grey, PICTURES)), standardize=True)
    assert isinstance(data.train, Resident)
    rows = PICTURES.reshape(4, 9)
    expected = unit((rows - rows.mean(0)) / rows.std(0))
    torch.testing.assert_close(data.train.x, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(data.evaluation.x, expected, rtol=1e-5, atol=1e-5)


def test_depths_without_a_white_are_not_mixed_with_others(tmp_path: Path) -> None:
    two = [floating(PICTURES[0]), floating(PICTURES[1] / 7)]
    torch.testing.assert_close(
        split(tmp_path / "s", two, two).evaluation.x[1], unit(PICTURES[1].reshape(1, 9))[0]
    )
    mixed = refusal(whole(tmp_path / "mixed.parquet", [*two, grey(PICTURES[2])]))
    assert "has images of F, L; allowed: 8 and 16 bits together" in mixed
    whole(tmp_path / "s" / "test.parquet", [grey(PICTURES[2])])
    assert "image of mode L among images of another depth" in refusal(tmp_path / "s", eval_split="test")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("ink", [0, 255, 100])
def test_a_shape_in_the_alpha_channel_is_seen(tmp_path: Path, mode: str, ink: int) -> None:
    alphas = DRAW.integers(0, 256, (4, 3, 3)).astype(np.uint8)

    def icon(alpha: Pixels) -> bytes:
        image = PIL.Image.new("LA", (3, 3), ink)
        image.putalpha(PIL.Image.fromarray(alpha))
        return encoded(image.convert(mode))

    data = load(whole(tmp_path / "icons.parquet", [icon(alpha) for alpha in alphas]))
    assert isinstance(data.train, Resident)
    x, y = torch.cat([data.train.x, data.evaluation.x]), torch.cat([data.train.y, data.evaluation.y])
    channels = 3 if mode == "RGBA" else 1
    expected = unit(np.repeat(alphas.reshape(4, 9, 1), channels, axis=2).reshape(4, -1))
    torch.testing.assert_close(x[y.flatten().argsort()], expected, rtol=0, atol=0.02)


def test_a_picture_with_alpha_keeps_its_colours(tmp_path: Path) -> None:
    rows = [np.dstack([np.repeat(p[..., None], 3, 2), p[::-1]]).astype(np.uint8) for p in PICTURES]
    data = split(tmp_path / "s", *[[encoded(PIL.Image.fromarray(row)) for row in rows]] * 2)
    torch.testing.assert_close(data.evaluation.x, unit(np.stack([row[..., :3].reshape(-1) for row in rows])))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "path",
    [
        "http://127.0.0.1:{port}/a.png",
        "simplecache::http://127.0.0.1:{port}/a.png",
        "zip://a.png::http://127.0.0.1:{port}/a.zip",
        "file://{private}",
        "simplecache::file://{private}",
        "{private}",
        "../private/a.png",
        "own/../../private/a.png",
    ],
)
def test_no_cell_makes_the_run_read_elsewhere(
    tmp_path: Path, path: str, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr("fsspec.open", lambda *a, **k: opened.append(a))
    monkeypatch.setattr("socket.socket.connect", lambda *a: opened.append(a))
    private = tmp_path / "private" / "a.png"
    private.parent.mkdir()
    private.write_bytes(grey(PICTURES[0]))
    cell = {"bytes": None, "path": path.format(port=9, private=private)}
    cells(tmp_path / "data" / "train.parquet", [cell] * 2)
    cells(tmp_path / "data" / "test.parquet", [cell] * 2)
    message = refusal(tmp_path / "data", eval_split="test", streaming=streaming)
    assert "is not inside the folder of the data" in message
    assert not opened


def test_cells_name_files_of_their_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    for i, picture in enumerate(PICTURES):
        (tmp_path / f"{i}.png").write_bytes(grey(picture))
    names = ["0.png", "./1.png", str(tmp_path / "2.png"), "x/../3.png"]
    data = load(cells(tmp_path / "t.parquet", [{"bytes": None, "path": name} for name in names]))
    assert isinstance(data.train, Resident)
    y = torch.cat([data.train.y, data.evaluation.y]).flatten()
    torch.testing.assert_close(
        torch.cat([data.train.x, data.evaluation.x])[y.argsort()], unit(PICTURES.reshape(4, 9))
    )


@pytest.mark.parametrize("folder", [".", "cat"])
def test_images_without_folders_of_classes_say_what_is_allowed(tmp_path: Path, folder: str) -> None:
    for i in range(3):
        png(tmp_path / folder / f"{i}.png", np.zeros((2, 2), np.uint8))
    assert refusal(tmp_path).startswith("data.target: images have no classes; allowed: two folders or more")


def test_a_folder_that_describes_itself_as_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a,label\n1,0\n2,1\n")
    for pattern in (
        "http://127.0.0.1:9/x.csv",
        "/etc/*.csv",
        "../*.csv",
        "zip://x.csv::http://127.0.0.1:9/z",
    ):
        for name, text in (
            ("README.md", "---\nconfigs:\n- config_name: default\n  data_files:\n  - {path: PATTERN}\n---\n"),
            ("README.md", "\ufeff---\r\nconfigs: [{config_name: default, data_files: PATTERN}]\r\n--- \r\n"),
            ("README.md", "---\n---a: 1\nconfigs: [{config_name: default, data_files: PATTERN}]\n---\n"),
            (".huggingface.yaml", "configs:\n- {config_name: default, data_files: [PATTERN]}\n"),
        ):
            described = text.replace("PATTERN", json.dumps(pattern))
            (tmp_path / name).write_text(described, encoding="utf-8", newline="")
            assert "says that its data are" in refusal(tmp_path)
            (tmp_path / name).unlink()
    (tmp_path / "README.md").write_text("---\nconfigs:\n- {config_name: default, data_files: '*.csv'}\n---\n")
    assert load(tmp_path).in_features == 1


def test_a_saved_folder_whose_data_are_elsewhere_is_refused(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"a": [1.0, 2.0], "label": [0, 1]})
    for name in ("private", "one"):
        rows.save_to_disk(tmp_path / name)
    state = json.loads((tmp_path / "one" / "state.json").read_text())
    for path in ("../private/data-00000-of-00001.arrow", str(tmp_path / "private/data-00000-of-00001.arrow")):
        changed = state | {"_data_files": [{"filename": path}]}
        (tmp_path / "one" / "state.json").write_text(json.dumps(changed))
        assert "'one' says that its data are" in refusal(tmp_path / "one")
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "several")
    (tmp_path / "several" / "dataset_dict.json").write_text('{"splits": ["train", "../private"]}')
    assert "'several' says that its data are" in refusal(tmp_path / "several")


def test_links_in_the_folder_of_the_data_are_followed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "a.csv").write_text("a,label\n1,0\n2,1\n")
    (disk / "README.md").write_text("Text without a description.\n---\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").symlink_to(disk / "a.csv")
    (tmp_path / "data" / "README.md").symlink_to(disk / "README.md")
    assert load(tmp_path / "data").in_features == 1


def bomb(side: int) -> bytes:
    """A black PNG of side² pixels, in a few kilobytes."""
    import struct

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 9))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_000, 20_000, 1_000_000])
def test_an_image_bomb_is_refused_unopened(tmp_path: Path, side: int) -> None:
    message = refusal(whole(tmp_path / "t.parquet", [bomb(side)] * 2))
    assert "row 0" in message
    assert "pixels" in message


def test_an_image_that_is_a_program_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("Ghostscript is started")
    )
    eps = encoded(PIL.Image.fromarray(PICTURES[0].astype(np.uint8)), "EPS")
    assert "an EPS file is a program" in refusal(whole(tmp_path / "t.parquet", [eps] * 2))


def test_image_modes_that_a_data_set_declares_are_kept(tmp_path: Path) -> None:
    images = [PIL.Image.fromarray(picture.astype(np.uint8)) for picture in PICTURES]
    features = datasets.Features({"image": datasets.Image(mode="RGB"), "y": datasets.Value("float32")})
    rows = datasets.Dataset.from_dict({"image": images, "y": [0.0, 1.0, 2.0, 3.0]}, features=features)
    rows.save_to_disk(str(tmp_path / "s"))
    assert load(tmp_path / "s").in_features == 27
