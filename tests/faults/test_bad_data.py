"""Data that no run can use, through the trainer: one line, status 2 and nothing left behind."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import PIL.Image
import pytest

from scaled_sgd.train.main import main
from scaled_sgd.train.stepper import OneNetwork
from tests.faults.cases import QUICK, Content, Row, assert_refused, write

TABLE = "a,b,label\n" + "".join(f"{i},{i * i % 7},{i % 2}\n" for i in range(20))
KINDS = (
    "whole files ending in .parquet, .csv, .csv.gz, .tsv, .tsv.gz, .json, .jsonl, .arrow, .npz, .npy, "
    "idx3-ubyte, idx3-ubyte.gz, "
    "or a folder of them or of images"
)
MISSING = "and nothing in 1 of … rows (as CSV readers take NA, None, null, nan)"
GARBAGE = b"\x00\xff\xfe\x01garbage\x80\x81" * 50
STREAM = ("--data.source=d", "--data.eval_split=test", "--data.streaming=true")
AS_THEY_ARE = (*STREAM, "--data.missing=refuse", "--data.standardize=false", "--data.constant=false")
"""A stream that is not read before training."""

IMAGES = {"image": datasets.Image(), "y": datasets.Value("float32")}
CLASSES = {"v": datasets.List(datasets.Value("float32")), "label": datasets.ClassLabel(num_classes=3)}


def with_row(row: str, number: int = 3) -> str:
    """The table with another line for a row."""
    lines = TABLE.splitlines()
    lines[number + 1] = row
    return "\n".join(lines) + "\n"


def parquet(part: slice = slice(None), **columns: Any) -> Callable[[Path], object]:
    """Some bytes of a parquet file."""

    def make(path: Path) -> None:
        pd.DataFrame(columns).to_parquet(path, index=False)
        path.write_bytes(path.read_bytes()[part])

    return make


def png(height: int, width: int, part: slice = slice(None)) -> Callable[[Path], object]:
    """Some bytes of an image of noise."""

    def make(path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (height, width), np.uint8)
        PIL.Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[part])

    return make


def saved(columns: dict[str, list[Any]], features: dict[str, Any] | None = None) -> Callable[[Path], object]:
    """A save_to_disk folder."""

    def make(path: Path) -> None:
        kinds = datasets.Features(features) if features else None
        datasets.Dataset.from_dict(columns, features=kinds).save_to_disk(str(path))

    return make


def pair(
    train: dict[str, list[Any]], test: dict[str, list[Any]], *names: list[str]
) -> Callable[[Path], object]:
    """A save_to_disk folder of two splits, the class names of which may be given."""

    def make(path: Path) -> None:
        parts = {}
        for i, (split, columns) in enumerate((("train", train), ("test", test))):
            rows = datasets.Dataset.from_dict(columns)
            if names:
                rows = rows.cast_column("label", datasets.ClassLabel(names=names[i]))
            parts[split] = rows
        datasets.DatasetDict(parts).save_to_disk(str(path))

    return make


def images(*pictures: str | None) -> Callable[[Path], object]:
    """A save_to_disk folder that refers to image files."""
    return saved({"image": [*pictures], "y": [0.0] * len(pictures)}, IMAGES)


TWO = {"v": [[1.0, 2.0]] * 2, "label": ["a", "b"]}

ROWS = [
    Row(
        "data.source: cannot read 't.csv': there are no rows; allowed: at least one",
        ("--data.source=t.csv",),
        {"t.csv": ""},
    ),
    Row(
        "data.source: cannot read 't.csv': there are no rows; allowed: at least one",
        ("--data.source=t.csv",),
        {"t.csv": "\n\n\n"},
    ),
    Row(
        "data.source: cannot read 't.csv': there are no rows; allowed: at least one",
        ("--data.source=t.csv",),
        {"t.csv": "a,label\n"},
    ),
    Row(
        "data.target: column 'label' has one class; allowed: 2..10000",
        ("--data.source=t.csv",),
        {"t.csv": "a,label\n1,0\n"},
    ),
    Row(
        (
            "data.source: cannot read 't.csv': 'utf-8' codec can't decode byte 0xff in position 1: "
            "invalid start byte; allowed: text in UTF-8"
        ),
        ("--data.source=t.csv",),
        {"t.csv": GARBAGE},
    ),
    Row(
        (
            "data.source: cannot read 't.csv': 'utf-8' codec can't decode byte 0xef in position 2: "
            "invalid continuation byte; allowed: text in UTF-8"
        ),
        ("--data.source=t.csv",),
        {"t.csv": "naïve,label\n1,0\n2,1\n".encode("latin-1")},
    ),
    Row(
        ("data.inputs: column 'a', row 3: nothing (1 of 20 rows); allowed: finite float32 numbers"),
        ("--data.source=t.csv", "--data.missing=refuse"),
        {"t.csv": with_row("nan,2,1")},
    ),
    Row(
        "data.inputs: column 'a', row 3: inf (1 of 20 rows); allowed: finite float32 numbers",
        ("--data.source=t.csv",),
        {"t.csv": with_row("inf,2,1")},
    ),
    Row(
        "data.inputs: column 'a', row 3: -inf (1 of 20 rows); allowed: finite float32 numbers",
        ("--data.source=t.csv",),
        {"t.csv": with_row("-inf,2,1")},
    ),
    Row(
        "data.inputs: column 'a', row 3: 1e+99 (1 of 20 rows); allowed: finite float32 numbers",
        ("--data.source=t.csv",),
        {"t.csv": with_row("1e99,2,1")},
    ),
    Row(
        ("data.inputs: column 'a', row 3: nothing (2 of 20 rows); allowed: finite float32 numbers"),
        ("--data.source=t.csv", "--data.missing=refuse"),
        {"t.csv": with_row(",2,1").replace("5,4,1", ",4,1")},
    ),
    Row(
        ("data.target: column 'label', row 3: nothing (1 of 20 rows); allowed: finite float32 numbers"),
        ("--data.source=t.csv",),
        {"t.csv": with_row("3,2,")},
    ),
    Row(
        ("data.target: column 'label', row 3: nothing (1 of 20 rows); allowed: finite float32 numbers"),
        ("--data.source=t.csv",),
        {"t.csv": with_row("3,2")},
    ),
    Row(
        (
            "data.source: cannot read 't.csv': line 5 has 4 fields, the first one 3; allowed: equally many "
            "in all lines"
        ),
        ("--data.source=t.csv",),
        {"t.csv": with_row("3,2,1,9")},
    ),
    Row(
        ("data.inputs: column 'a' holds more than 3 texts; allowed: fewer, or a larger data.categories"),
        ("--data.source=t.csv", "--data.inputs=[a]", "--data.categories=3"),
        {"t.csv": with_row("x,2,1")},
    ),
    Row(
        (
            "data.inputs: no column beside the target can be the input (a: different in most rows); allowed: "
            "images, numbers and lists of numbers"
        ),
        ("--data.source=t.csv",),
        {"t.csv": "a,label\nx,0\ny,1\n"},
    ),
    Row(
        "data.target: no column is clearly the target; allowed: one of a;label",
        ("--data.source=t.csv", "--data.separator=,"),
        {"t.csv": "a;label\n1;0\n2;1\n"},
    ),
    Row(
        "data.source: 't.csv' has several columns 'a'; allowed: each name once, or data.header false if its "
        "first line holds values",
        ("--data.source=t.csv",),
        {"t.csv": "a,a,label\n1,2,0\n3,4,1\n"},
    ),
    Row(
        "data.source: 't.csv' has several columns 'a'; allowed: each name once, or data.header false if its "
        "first line holds values",
        ("--data.source=t.csv", "--data.target=a"),
        {"t.csv": "a,b,a\n1,2,0\n3,4,1\n"},
    ),
    Row(
        (
            "data.inputs: no column beside the target can be the input (there is none); allowed: "
            "images, numbers and lists of numbers"
        ),
        ("--data.source=t.csv",),
        {"t.csv": "label\n1\n0\n"},
    ),
    Row(
        "data.target: column 'label' has one class; allowed: 2..10000",
        ("--data.source=t.csv",),
        {"t.csv": "a,label\n1,0\n2,0\n3,0\n"},
    ),
    Row(
        "data.target: column 'label' has one class; allowed: 2..10000",
        ("--data.source=t.csv",),
        {"t.csv": "a,label\n1,x\n2,x\n"},
    ),
    Row(
        (f"data.source: cannot read 't.csv': Python int too large to convert to C long; allowed: {KINDS}"),
        ("--data.source=t.csv",),
        {"t.csv": "a,label\n1,99999999999999999999999\n2,0\n"},
    ),
    Row(
        ("data.task: 'classification' does not fit column 'label' of double; allowed: auto, regression"),
        ("--data.source=t.csv", "--data.task=classification"),
        {"t.csv": "a,label\n0.1,0.5\n0.2,0.7\n"},
    ),
    Row(
        "data.target: column 'label' holds text; allowed: numbers",
        ("--data.source=t.csv", "--data.task=regression"),
        {"t.csv": "a,label\n1,x\n2,y\n"},
    ),
    Row(
        "loss: 'cross_entropy' does not fit number targets; allowed: mse, auto",
        ("--data.source=t.csv", "--loss=cross_entropy"),
        {"t.csv": "a,label\n1,0.5\n2,0.7\n"},
    ),
    Row(
        "data.target: column 'label', row 2: label -1 (1 of 3 rows); allowed: 0, 1",
        ("--data.source=t.csv",),
        {"t.csv": "a,label\n1,0\n2,1\n3,-1\n"},
    ),
    Row(
        "data.target: no column 'lable'; allowed: a, b, label",
        ("--data.source=t.csv", "--data.target=lable"),
        {"t.csv": TABLE},
    ),
    Row(
        "data.inputs: no column 'c'; allowed: a, b, label",
        ("--data.source=t.csv", "--data.inputs=[a,c]"),
        {"t.csv": TABLE},
    ),
    Row(
        "data.inputs: column 'a' is there twice; allowed: each column once",
        ("--data.source=t.csv", "--data.inputs=[a,a]"),
        {"t.csv": TABLE},
    ),
    Row(
        "data.inputs: the list is empty; allowed: a, b, label",
        ("--data.source=t.csv", "--data.inputs=[]"),
        {"t.csv": TABLE},
    ),
    Row(
        "data.inputs: column 'b' is the target; allowed: other columns",
        ("--data.source=t.csv", "--data.target=b", "--data.inputs=[b]"),
        {"t.csv": TABLE},
    ),
    Row(
        "data.split: no split 'dev'; allowed: train",
        ("--data.source=t.csv", "--data.split=dev"),
        {"t.csv": TABLE},
    ),
    Row(
        "data.eval_split: no split 'dev'; allowed: train",
        ("--data.source=t.csv", "--data.eval_split=dev"),
        {"t.csv": TABLE},
    ),
    Row(
        "data.eval_split: 'auto' finds no split 'test'; allowed with data.streaming: train",
        ("--data.source=t.csv", "--data.streaming=true"),
        {"t.csv": TABLE},
    ),
    Row(
        "optim.epochs: 3.0 is not usable; allowed: null with data.streaming true (a stream has no length; "
        "optim.steps says it)",
        (
            "--data.source=t.csv",
            "--data.streaming=true",
            "--data.eval_split=train",
            "--optim.steps=null",
            "--optim.epochs=3",
        ),
        {"t.csv": TABLE},
    ),
    Row(
        "data.limit: 3 is not usable; allowed: null with data.streaming true (optim.steps limits a stream)",
        ("--data.source=t.csv", "--data.streaming=true", "--data.eval_split=train", "--data.limit=3"),
        {"t.csv": TABLE},
    ),
    Row(
        "optim.steps: null is not usable; allowed: a number of steps with data.streaming true "
        "(the length of a stream is unknown)",
        ("--data.source=t.csv", "--data.streaming=true", "--data.eval_split=train", "--optim.steps=null"),
        {"t.csv": TABLE},
    ),
    Row(
        (
            "data.target: column 'label' holds text; allowed with data.streaming: class labels, "
            "integers and numbers"
        ),
        ("--data.source=t.csv", "--data.streaming=true", "--data.eval_split=train"),
        {"t.csv": "a,label\n1,x\n2,y\n"},
    ),
    Row(
        "data.target: no column is clearly the target; allowed: one of a, outcome",
        ("--data.source=t.csv",),
        {"t.csv": "a,outcome\n1,0\n2,1\n"},
    ),
    Row(
        "data.source: cannot read 't.json': there are no rows; allowed: at least one",
        ("--data.source=t.json",),
        {"t.json": ""},
    ),
    Row(
        "data.source: cannot read 't.json': there are no rows; allowed: at least one",
        ("--data.source=t.json",),
        {"t.json": "[]"},
    ),
    Row(
        (
            "data.source: cannot read 't.json': JSON parse error: Missing a name for object "
            f"member. in row 0; allowed: {KINDS}"
        ),
        ("--data.source=t.json",),
        {"t.json": "{"},
    ),
    Row(
        "data.target: no column is clearly the target; allowed: one of text",
        ("--data.source=t.json",),
        {"t.json": "[1, 2, 3]"},
    ),
    Row(
        (f"data.source: cannot read 't.json': JSON parse error: The document is empty.; allowed: {KINDS}"),
        ("--data.source=t.json",),
        {"t.json": GARBAGE},
    ),
    Row(
        (
            "data.inputs: no column beside the target can be the input (a); allowed: images, "
            "numbers and lists of numbers"
        ),
        ("--data.source=t.jsonl",),
        {"t.jsonl": '{"a": 1, "label": 0}\n{"a": "x", "label": 1}\n'},
    ),
    Row(
        "data.inputs: column 'a', row 1: nan (1 of 2 rows); allowed: finite float32 numbers",
        ("--data.source=t.jsonl", "--data.missing=refuse"),
        {"t.jsonl": '{"a": 1, "label": 0}\n{"a": NaN, "label": 1}\n'},
    ),
    Row(
        "data.inputs: column 'a', row 1: nothing (1 of 2 rows); allowed: finite float32 numbers",
        ("--data.source=t.jsonl", "--data.missing=refuse"),
        {"t.jsonl": '{"a": 1, "label": 0}\n{"label": 1}\n'},
    ),
    Row(
        "data.inputs: column 'v' has rows of different lengths; allowed: one length",
        ("--data.source=t.jsonl",),
        {"t.jsonl": '{"v": [1, 2], "label": 0}\n{"v": [1], "label": 1}\n'},
    ),
    Row(
        "data.inputs: column 'v', row 0: nothing (1 of 2 rows); allowed: finite float32 numbers",
        ("--data.source=t.jsonl",),
        {"t.jsonl": '{"v": [1, null], "label": 0}\n{"v": [1, 2], "label": 1}\n'},
    ),
    Row(
        "data.inputs: column 'v' has rows of different lengths; allowed: one length",
        ("--data.source=t.jsonl",),
        {"t.jsonl": '{"v": [1, 2], "label": 0}\n{"v": null, "label": 1}\n'},
    ),
    Row(
        (
            "data.inputs: no column beside the target can be the input (v); allowed: images, "
            "numbers and lists of numbers"
        ),
        ("--data.source=t.jsonl",),
        {"t.jsonl": '{"v": [], "label": 0}\n{"v": [], "label": 1}\n'},
    ),
    Row(
        "data.inputs: several columns could be the input; allowed: some of v, w",
        ("--data.source=t.jsonl",),
        {"t.jsonl": '{"v": [1.0], "w": [2.0], "label": 0}\n{"v": [1.0], "w": [1.0], "label": 1}\n'},
    ),
    Row(
        f"data.source: cannot read 't.parquet': Parquet file size is 0 bytes; allowed: {KINDS}",
        ("--data.source=t.parquet",),
        {"t.parquet": b""},
    ),
    Row(
        (
            "data.source: cannot read 't.parquet': Parquet magic bytes not found in footer. Either "
            f"the file is corrupted or this is not a parquet file.; allowed: {KINDS}"
        ),
        ("--data.source=t.parquet",),
        {"t.parquet": GARBAGE},
    ),
    Row(
        (
            "data.source: cannot read 't.parquet': Parquet magic bytes not found in footer. Either "
            f"the file is corrupted or this is not a parquet file.; allowed: {KINDS}"
        ),
        ("--data.source=t.parquet",),
        {"t.parquet": parquet(slice(-100), a=range(1000), label=[0, 1] * 500)},
    ),
    Row(
        (
            "data.source: cannot read 't.parquet': Parquet magic bytes not found in footer. Either "
            f"the file is corrupted or this is not a parquet file.; allowed: {KINDS}"
        ),
        ("--data.source=t.parquet",),
        {"t.parquet": parquet(slice(1000), a=range(1000), label=[0, 1] * 500)},
    ),
    Row(
        "data.target: column 'label' is Value('binary'); allowed: classes and numbers",
        ("--data.source=t.parquet",),
        {"t.parquet": parquet(a=[1.0, 2.0], label=[b"x", b"y"])},
    ),
    Row(
        "data.target: column 'label' is Value('timestamp[us]'); allowed: classes and numbers",
        ("--data.source=t.parquet",),
        {"t.parquet": parquet(a=[1.0, 2.0], label=pd.to_datetime(["2020-01-01"] * 2))},
    ),
    Row(
        ("data.target: column 'label', row 1: nothing (1 of 2 rows); allowed: finite float32 numbers"),
        ("--data.source=t.parquet",),
        {"t.parquet": parquet(a=[1.0, 2.0], label=[0.5, None])},
    ),
    Row(
        "data.inputs: column 'a', row 1: 1e+300 (1 of 2 rows); allowed: finite float32 numbers",
        ("--data.source=t.parquet",),
        {"t.parquet": parquet(a=[1.0, 1e300], label=[0, 1])},
    ),
    Row(
        f"data.source: cannot read 't.arrow': File is too small: 0; allowed: {KINDS}",
        ("--data.source=t.arrow",),
        {"t.arrow": b""},
    ),
    Row(
        f"data.source: cannot read 't.arrow': Not an Arrow file; allowed: {KINDS}",
        ("--data.source=t.arrow",),
        {"t.arrow": GARBAGE},
    ),
    Row(
        f"data.source: 't.xlsx' is of another kind; allowed: {KINDS}",
        ("--data.source=t.xlsx",),
        {"t.xlsx": b""},
    ),
    Row(
        f"data.source: 't.py' is of another kind; allowed: {KINDS}",
        ("--data.source=t.py",),
        {"t.py": "open('hacked', 'w')"},
    ),
    Row(
        (
            "data.source: cannot read 'd': Dataset scripts are no longer supported, but found "
            f"d.py; allowed: {KINDS}"
        ),
        ("--data.source=d",),
        {"d/d.py": "open('hacked', 'w')"},
    ),
    Row(
        (
            "data.source: cannot read 'd': Dataset scripts are no longer supported, but found "
            f"d.py; allowed: {KINDS}"
        ),
        ("--data.source=d",),
        {"d/d.py": "open('hacked', 'w')", "d/train.csv": TABLE},
    ),
    Row(
        "data.target: no column is clearly the target; allowed: one of text",
        ("--data.source=d",),
        {"d/x.txt": "hello"},
    ),
    Row(
        (
            "data.source: cannot read 'd': The directory at …/d doesn't contain any data files; "
            f"allowed: {KINDS}"
        ),
        ("--data.source=d",),
        {"d": lambda path: path.mkdir()},
    ),
    Row(
        (
            "data.source: cannot read 'd': Expecting property name enclosed in double quotes: line "
            f"1 column 2 (char 1); allowed: {KINDS}"
        ),
        ("--data.source=d",),
        {"d/dataset_dict.json": "{"},
    ),
    Row(
        f"data.source: cannot read 'd': No such files: …; allowed: {KINDS}",
        ("--data.source=d",),
        {"d/dataset_dict.json": '{"splits": ["train"]}'},
    ),
    Row(
        (
            "data.source: cannot read 'd': Directory …/d is neither a `Dataset` directory nor a "
            f"`DatasetDict` directory.; allowed: {KINDS}"
        ),
        ("--data.source=d",),
        {"d/state.json": "{}"},
    ),
    Row(
        "data.target: column 'label', row 2: label -1 (1 of 3 rows); allowed: 0..2",
        ("--data.source=d",),
        {"d": saved({"v": [[1.0]] * 3, "label": [0, 2, -1]}, CLASSES)},
    ),
    Row(
        f"data.target: column 'label', row 1: no label, {MISSING}; allowed: 'a', 'b'",
        ("--data.source=d",),
        {"d": saved({"v": [[1.0]] * 3, "label": ["a", None, "b"]})},
    ),
    Row(
        "data.inputs: column 'v' has rows of different lengths; allowed: one length",
        ("--data.source=d",),
        {"d": saved({"v": [[1.0, 2.0], [3.0]], "y": [0.0, 1.0]})},
    ),
    Row(
        "data.target: column 'label', row 3: label 7 (1 of 20 rows); allowed: 0, 1",
        ("--data.source=d", "--data.eval_split=test"),
        {"d/train.csv": TABLE, "d/test.csv": with_row("3,2,7")},
    ),
    Row(
        "data.source: cannot read 'd': there are no rows; allowed: at least one",
        ("--data.source=d", "--data.eval_split=test"),
        {"d/train.csv": TABLE, "d/test.csv": "a,b,label\n"},
    ),
    Row(
        f"data.source: cannot read 'd': Couldn't cast …; allowed: {KINDS}",
        ("--data.source=d", "--data.eval_split=test"),
        {"d/train.csv": TABLE, "d/test.csv": "a,c,label\n1,2,0\n"},
    ),
    Row(
        "data.target: column 'label', row 0: label 'c' (1 of 1 rows); allowed: 'a', 'b'",
        ("--data.source=d", "--data.eval_split=test"),
        {"d": pair(TWO, {"v": [[1.0, 2.0]], "label": ["c"]})},
    ),
    Row(
        "data.inputs: a split has rows of 3 numbers; allowed: 2 as in the other",
        ("--data.source=d", "--data.eval_split=test"),
        {"d": pair(TWO, {"v": [[1.0, 2.0, 3.0]], "label": ["a"]})},
    ),
    Row(
        (
            "data.eval_split: split 'test' has no column 'v', only w, label; allowed: a split with "
            "the columns of training"
        ),
        ("--data.source=d", "--data.eval_split=test"),
        {"d": pair(TWO, {"w": [[1.0, 2.0]], "label": ["a"]})},
    ),
    Row(
        "data.target: column 'label' holds int64; allowed: 'a', 'b'",
        ("--data.source=d", "--data.eval_split=test"),
        {"d": pair(TWO, {"v": [[1.0, 2.0]], "label": [0]})},
    ),
    Row(
        ("data.eval_split: split 'test' has classes b, a in 'label'; allowed: those of 'train', a, b"),
        ("--data.source=d", "--data.eval_split=test"),
        {"d": pair(TWO, TWO, ["a", "b"], ["b", "a"])},
    ),
    Row(
        ("data.inputs: column 'image', row 1: image of 5x4 pixels; allowed: 4x4 as in the first row"),
        ("--data.source=d",),
        {"a.png": png(4, 4), "b.png": png(4, 5), "d": images("a.png", "b.png")},
    ),
    Row(
        (
            "data.inputs: column 'image', row 1: not an image; allowed: whole images in a format "
            "that Pillow reads"
        ),
        ("--data.source=d",),
        {"a.png": png(4, 4), "b.png": "no image", "d": images("a.png", "b.png")},
    ),
    Row(
        (
            "data.inputs: column 'image', row 0: image file is truncated; allowed: whole images in "
            "a format that Pillow reads"
        ),
        ("--data.source=d",),
        {"a.png": png(64, 64, slice(1500)), "d": images("a.png", "a.png")},
    ),
    Row(
        (
            "data.inputs: column 'image', row 1: there is no image; allowed: whole images in a "
            "format that Pillow reads"
        ),
        ("--data.source=d",),
        {"a.png": png(4, 4), "d": images("a.png", None)},
    ),
    Row(
        ("data.inputs: column 'image', row 1: image of 4x5 pixels; allowed: 4x4 as in the first row"),
        ("--data.source=d",),
        {"d/train/x/1.png": png(4, 4), "d/train/y/2.png": png(5, 4)},
    ),
    Row(
        "data.split: 'train' has one row; allowed: two or more, to hold some out",
        ("--data.source=t.csv",),
        {"t.csv": "a,label\n1,0.5\n"},
    ),
]

STREAMED = [
    Row(
        "data.split: cannot read split 'train': there are no rows; allowed: at least one",
        STREAM,
        {"d/train.csv": "", "d/test.csv": TABLE},
    ),
    Row(
        "data.split: split 'train' has no rows; allowed: at least one",
        STREAM,
        {"d/train.csv": "a,b,label\n", "d/test.csv": TABLE},
    ),
    Row(
        "data.inputs: column 'a' holds text; allowed: numbers",
        STREAM,
        {"d/train.csv": TABLE, "d/test.csv": TABLE + "x,y,0\n"},
    ),
    Row(
        (
            "data.source: cannot read 'd': 'utf-8' codec can't decode byte 0xff in position 1: "
            "invalid start byte; allowed: text in UTF-8"
        ),
        STREAM,
        {"d/train.csv": GARBAGE, "d/test.csv": TABLE},
    ),
    Row(
        (
            "data.source: cannot read 'd': Parquet magic bytes not found in footer. Either the "
            f"file is corrupted or this is not a parquet file.; allowed: {KINDS}"
        ),
        STREAM,
        {"d/train.parquet": GARBAGE, "d/test.parquet": parquet(a=[1.0, 2.0], label=[0, 1])},
    ),
]
"""Of streams, mistakes that show before the first step."""

RUNNING = [
    Row(
        "data.target: column 'label', row …: label 5 (1 of … rows); allowed: 0, 1",
        STREAM,
        {"d/train.csv": with_row("3,2,5"), "d/test.csv": TABLE},
    ),
    Row(
        f"data.target: column 'label', row …: no label, {MISSING}; allowed: 0, 1",
        STREAM,
        {"d/train.csv": with_row("3,2,"), "d/test.csv": TABLE},
    ),
    Row(
        "data.inputs: column 'a', row …: nothing (1 of … rows); allowed: finite float32 numbers",
        AS_THEY_ARE,
        {"d/train.csv": with_row("nan,2,1"), "d/test.csv": TABLE},
    ),
    Row(
        "data.inputs: column 'a', row …: inf (1 of … rows); allowed: finite float32 numbers",
        AS_THEY_ARE,
        {"d/train.csv": with_row("inf,2,1"), "d/test.csv": TABLE},
    ),
    Row(
        "data.inputs: column 'v' has rows of different lengths; allowed: one length",
        STREAM,
        {
            "d/train.jsonl": '{"v": [1, 2], "label": 0}\n{"v": [1], "label": 1}\n',
            "d/test.jsonl": '{"v": [1, 2], "label": 0}\n{"v": [2, 1], "label": 1}\n',
        },
    ),
]
"""Of streams, mistakes that only later rows show."""


@pytest.mark.parametrize("row", [*ROWS, *STREAMED], ids=lambda row: f"{list(row.files)} {row.message}"[:80])
def test_unusable_data_are_refused(row: Row, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(row, capfd)
    assert not Path("hacked").exists()


@pytest.mark.parametrize("row", RUNNING, ids=lambda row: row.message[:60])
def test_a_mistake_that_only_later_rows_show_ends_the_run(
    row: Row, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_refused(row, capfd, started=True)


SHARDS: dict[str, Content] = {
    f"d/{name}.parquet": parquet(a=[float(i) for i in range(40)], label=[0, 1] * 20)
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")
}


def test_a_file_that_vanishes_while_training_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    take = OneNetwork.take

    def vanishing(self: OneNetwork, step: int, *arguments: Any, **options: Any) -> Any:
        for file in Path("d").glob("train-*"):
            file.unlink()
        return take(self, step, *arguments, **options)

    monkeypatch.setattr(OneNetwork, "take", vanishing)
    arguments = (*STREAM, "--optim.batch_size=8", "--optim.steps=50", "--data.shuffle_buffer=4")
    message = f"data.split: cannot read split 'train': …No such file or directory…; allowed: {KINDS}"
    assert_refused(Row(message, arguments, SHARDS), capfd, started=True)


@pytest.mark.parametrize("streaming", ["true", "false"])
def test_a_file_that_vanishes_between_listing_and_reading_is_refused(
    streaming: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    load = datasets.load_dataset_builder

    def vanishing(*arguments: Any, **options: Any) -> Any:
        os.unlink("t.csv")
        return load(*arguments, **options)

    monkeypatch.setattr(datasets, "load_dataset_builder", vanishing)
    arguments = ("--data.source=t.csv", f"--data.streaming={streaming}", "--data.eval_split=train")
    message = f"data.source: cannot read 't.csv': Unable to find '…/t.csv'; allowed: {KINDS}"
    assert_refused(Row(message, arguments, {"t.csv": TABLE}), capfd)


@pytest.mark.parametrize(
    "name", ["my data/t.csv", "größe/数 据.csv", "a'b\"c.csv", "[x]/t.csv", "a%20b.csv", "a*b?.csv"]
)
def test_any_file_name_will_do(name: str) -> None:
    write({name: TABLE})
    assert main([*QUICK, f"--data.source={name}"]) == 0
