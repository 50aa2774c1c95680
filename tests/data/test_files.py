"""Files as people have them: other separators, no header, codes, packed, NumPy's, and their test splits."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from scaled_sgd.data import Resident
from scaled_sgd.data.dialect import Asked, dialect_of
from tests.data.sources import load, refusal, table


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("t.tsv", {"sep": "\t"}),
        ("t.csv.gz", {}),
        ("t.tsv.gz", {"sep": "\t"}),
        ("t.csv", {"sep": ";"}),
        ("t.csv", {"sep": ";", "decimal": ","}),
        ("t.csv", {"sep": "|"}),
        ("t.csv", {"sep": "\t"}),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_table_is_the_same_in_every_dialect(
    tmp_path: Path, name: str, options: dict[str, Any], streaming: bool
) -> None:
    (tmp_path / "a").mkdir()
    rows = table(40)
    rows.to_csv(tmp_path / "plain.csv", index=False)
    rows.to_csv(tmp_path / "a" / name, index=False, **options)
    expected = load(tmp_path / "plain.csv", streaming=streaming, eval_split="train" if streaming else "auto")
    data = load(tmp_path / "a" / name, streaming=streaming, eval_split="train" if streaming else "auto")
    assert torch.equal(data.evaluation.x, expected.evaluation.x)
    assert data.config.separator == options.get("sep", ",")
    said = ["data.separator"] if options.get("sep", ",") in ";|" else []
    assert [note.split(":")[0] for note in data.notes] == said


@pytest.mark.parametrize(
    ("first", "header"),
    [
        ("a,b,label", True),
        ("0,1,2,label", True),
        ("country,2019,2020", True),
        ("5.1,3.5,setosa", False),
        ("5,0,0,0", False),
        ("-1,x", False),
        ("Ann,52,f", False),
    ],
)
def test_a_first_line_of_values_is_no_header(tmp_path: Path, first: str, header: bool) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{first}\n" * 2 if not header else f"{first}\n" + ",".join("1" * (first.count(",") + 1)))
    assert dialect_of(path, Asked()).header is header
    assert dialect_of(path, Asked(header=False)).names[0] == "column_1"


def test_columns_without_names_are_numbered_and_said(tmp_path: Path) -> None:
    rows = table(30)
    rows["label"] = np.where(rows["label"], "yes", "no")
    rows.to_csv(tmp_path / "t.csv", index=False, header=False)
    message = refusal(tmp_path / "t.csv")
    assert message.startswith(
        "data.target: no column is clearly the target; allowed: one of column_1, column_2"
    )
    assert "the first line of 't.csv' holds values, no names" in message
    data = load(tmp_path / "t.csv", target="column_3")
    assert (data.columns.inputs, data.class_names) == (("column_1", "column_2"), ("no", "yes"))
    assert isinstance(data.train, Resident)
    assert len(data.train) + len(data.evaluation) == 30


@pytest.mark.parametrize("streaming", [False, True])
def test_separators_at_the_ends_of_lines_move_no_column(tmp_path: Path, streaming: bool) -> None:
    lines = table(40).to_csv(index=False).splitlines()
    expected = {}
    for name, ends in (("plain", ("", "")), ("values", ("", ",")), ("all", (",", ","))):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([lines[0] + ends[0], *(line + ends[1] for line in lines[1:])]))
        data = load(path, streaming=streaming, eval_split="train" if streaming else "auto")
        assert data.columns.inputs == ("a", "b")
        expected.setdefault("x", data.evaluation.x)
        assert torch.equal(data.evaluation.x, expected["x"])


def test_names_that_begin_with_a_space_are_quoted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a, price\n" + "1, 2.5\n2, 3.5\n" * 5)
    assert refusal(tmp_path / "t.csv", target="price").endswith("allowed: a, ' price'")
    assert load(tmp_path / "t.csv", target=" price").columns.inputs == ("a",)


def test_a_separator_and_a_header_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a b^y\n" + "1^0\n2^1\n" * 5)
    assert load(tmp_path / "t.csv", separator="^").columns.inputs == ("a b",)
    (tmp_path / "n.csv").write_text("1.5,label\n" + "1,0\n2,1\n" * 5)
    assert load(tmp_path / "n.csv", header=True).columns.inputs == ("1.5",)


def test_files_of_one_folder_are_in_one_dialect(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "train.csv", index=False)
    table().to_csv(tmp_path / "test.csv", index=False, sep=";")
    assert refusal(tmp_path).startswith(
        "data.source: 'train.csv' and 'test.csv' differ in separator or header"
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_codes_with_leading_zeros_are_text(tmp_path: Path, streaming: bool) -> None:
    rows = table(30, area=["01", "02", "30"] * 10, part=["007", "", "010"] * 10)
    for split in ("train", "test"):
        rows.to_csv(tmp_path / f"{split}.csv", index=False)
    options: dict[str, Any] = {"streaming": streaming}
    data = load(tmp_path, **options)
    assert data.pipeline.encoding.texts == {"area": ("01", "02", "30"), "part": ("007", "010", None)}
    assert load(tmp_path, codes="number", **options).pipeline.encoding.texts == {}
    if not streaming:
        classes = load(tmp_path, target="area", task="classification")
        assert classes.class_names == ("01", "02", "30")


def test_codes_are_text_beside_any_separator(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("n:area:y\n" + "5:01:0\n6:12:1\n" * 5)
    assert load(tmp_path / "t.csv", separator=":").pipeline.encoding.texts == {"area": ("01", "12")}


def test_numbers_that_begin_with_a_zero_are_no_codes(tmp_path: Path) -> None:
    table(20, half=["0.5", "00.5"] * 10, day=["0", "10"] * 10).to_csv(tmp_path / "t.csv", index=False)
    assert load(tmp_path / "t.csv").pipeline.encoding.texts == {}


def test_arrays_of_numpy_are_read(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(20, 3)), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    data = load(tmp_path / "a.npz")
    assert (data.columns.inputs, data.columns.target) == (("x_1", "x_2", "x_3"), "y")
    pictures = draw.integers(0, 256, (20, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "m.npz", x_train=pictures, y_train=y, x_test=pictures[:6], y_test=y[:6])
    data = load(tmp_path / "m.npz")
    assert (data.in_features, len(data.evaluation), data.config.eval_split) == (16, 6, "test")
    np.save(tmp_path / "a.npy", np.column_stack([x, y]))
    found = load(tmp_path / "a.npy", target="column_4")
    assert found.columns.inputs == ("column_1", "column_2", "column_3")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "allow_pickle=False" in refusal(tmp_path / "o.npy")
    np.savez(tmp_path / "w.npz", x=x, y=y[:3])
    assert "allowed: arrays of one length" in refusal(tmp_path / "w.npz")


def test_a_test_split_is_evaluated_on_and_said(tmp_path: Path) -> None:
    for split, n in (("train", 30), ("test", 7)):
        table(n).to_csv(tmp_path / f"{split}.csv", index=False)
    data = load(tmp_path)
    assert (len(data.evaluation), data.config.eval_split) == (7, "test")
    assert "7 held-out samples (split test)" in data.describe()
    assert len(load(tmp_path, eval_split=None).evaluation) == 6


def test_a_test_split_without_the_target_is_left_and_said(tmp_path: Path) -> None:
    x, y = np.ones((30, 2)), np.arange(30) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x)
    data = load(tmp_path / "a.npz")
    assert len(data.evaluation) == 6
    (note,) = data.notes
    assert note.startswith(
        "data.eval_split: a part of 'train', for split 'test' does not fit: data.eval_split"
    )


def test_long_lists_of_columns_are_cut(tmp_path: Path) -> None:
    wide = pd.DataFrame({f"c{i}": [0.0, 1.0] for i in range(300)})
    wide.to_csv(tmp_path / "t.csv", index=False)
    assert refusal(tmp_path / "t.csv").endswith(", c19, … (300)")
