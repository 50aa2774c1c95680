"""Data in several pieces, or replaced between two runs, are what their files say now."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from scaled_sgd.core.errors import printable
from scaled_sgd.data import Data, Resident, Stream, csv_types
from scaled_sgd.data.columns import find_columns
from scaled_sgd.data.facts import changed_fact, data_facts
from scaled_sgd.data.files import digest
from tests.data.sources import parquet, refusal, table
from tests.data.sources import plain as load

Codes = list[Any]


def csv(path: Path, labels: Codes, **columns: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    table(len(labels), label=labels, **columns).to_csv(path, index=False)
    return path


def labels_of(data: Data) -> list[str]:
    """The class names of all rows, sorted."""
    assert isinstance(data.train, Resident)
    assert data.class_names is not None
    y = torch.cat([data.train.y, data.evaluation.y])
    return sorted(data.class_names[k] for k in y)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["01", "02", "A1", "03"], ["01", "02", "03"]),
        (["1.0", "2.0", "x"], ["1.0", "2.0"]),
        (["yes", "no"], ["True", "False", "TRUE"]),
        (["1", "2"], ["true", "false"]),
        (["1e3", "1000"], ["a", "b"]),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_text_is_text_in_all_pieces(
    tmp_path: Path, first: Codes, second: Codes, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:  # a large file is read in pieces of 10,000 rows
        monkeypatch.setattr(csv_types, "WHOLE", 0)
    for order in ([first, second], [second, first]):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        for i, labels in enumerate(order):
            csv(tmp_path / "s" / f"part-{i}.csv", labels * 2)
        assert labels_of(load(tmp_path / "s")) == sorted([*first, *second] * 2)
        piece = (order[0] * 5000)[: 10 if whole else 10_000]
        one = csv(tmp_path / f"{order.index(first)}.csv", [*piece, *order[1]])
        assert load(one).class_names == tuple(sorted({*first, *second}))


def test_integers_and_decimals_in_pieces_are_decimals(tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": [1, 2, 3, 4], "y": [1, 2, 3, 4]})
    rows.to_csv(tmp_path / "part-0.csv", index=False)
    (rows + 0.5).to_csv(tmp_path / "part-1.csv", index=False)
    data = load(tmp_path)
    assert isinstance(data.train, Resident)
    y = torch.cat([data.train.y, data.evaluation.y]).flatten()
    assert sorted(y.tolist()) == [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5]
    (tmp_path / "part-1.csv").write_text("a,y\n")
    assert load(tmp_path, task="classification").class_names == ("1", "2", "3", "4")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_of_text_and_numbers_is_refused_where_the_text_is_lost(
    tmp_path: Path, suffix: str, streaming: bool
) -> None:
    parts: tuple[Codes, Codes] = (["01", "02"] * 4, [1, 2] * 4)
    for i, labels in enumerate(parts):
        for split in ("train", "test"):
            rows = table(8, label=labels)
            if suffix == "parquet":
                parquet(tmp_path / f"{split}-{i}.parquet", rows)
            else:
                rows.to_json(tmp_path / f"{split}-{i}.jsonl", orient="records", lines=True)
    message = refusal(tmp_path, eval_split="test", streaming=streaming)
    if streaming:
        assert message.startswith(
            "data.target: column 'label' holds text; allowed with data.streaming: class labels"
        )
    else:
        assert message == (
            "data.source: column 'label' is text in one part and numbers in another; allowed: one type"
        )


@pytest.mark.parametrize("held_out", [[0, 1, 3], [1, 3], [2, 3], [5, 5]])
def test_a_stream_whose_held_out_integers_have_gaps_is_no_regression_unasked(
    tmp_path: Path, held_out: Codes
) -> None:
    csv(tmp_path / "train.csv", [0, 1, 2, 3] * 3)
    csv(tmp_path / "test.csv", held_out * 3)
    options: dict[str, Any] = {"streaming": True, "eval_split": "test"}
    assert refusal(tmp_path, **options).startswith("data.task: 'auto' does not tell whether integers")
    assert load(tmp_path, **options, task="regression").task == "regression"


@pytest.mark.parametrize("name", ["Unnamed: 0", "Unnamed: 0.1", "Unnamed: 0.1.1", "__index_level_1__"])
def test_row_numbers_that_pandas_wrote_are_no_input(tmp_path: Path, name: str) -> None:
    rows = table()
    rows.insert(0, name, range(20))
    data = load(parquet(tmp_path / "t.parquet", rows))
    assert data.columns.inputs == ("a", "b")
    assert data.columns.left_out == (name,)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("folder", [False, True])
def test_a_file_rewritten_with_its_old_time_is_read_anew(tmp_path: Path, suffix: str, folder: bool) -> None:
    def write(first: int) -> Path:
        rows = pd.DataFrame({"a": [first + i for i in range(8)], "y": [1000.5 + first + i for i in range(8)]})
        path = tmp_path / f"t.{suffix}"
        if suffix == "csv":
            rows.to_csv(path, index=False)
        elif suffix == "parquet":
            parquet(path, rows)
        else:
            rows.to_json(path, orient="records", lines=True)
        os.utime(path, (1.7e9, 1.7e9))
        return tmp_path if folder else path

    for first in (1000, 2000):  # of the same length
        data = load(write(first))
        assert isinstance(data.train, Resident)
        assert float(data.train.y.min()) >= 1000 + first


def streamed(folder: Path, seed: int, n: int = 12) -> Data:
    folder.mkdir(exist_ok=True)
    for name, draw in (("train", np.random.default_rng(seed)), ("test", np.random.default_rng(0))):
        rows = pd.DataFrame({"a": draw.normal(size=n), "b": draw.normal(size=n), "label": [0, 1] * (n // 2)})
        parquet(folder / f"{name}.parquet", rows)
    return load(folder, streaming=True, eval_split="test")


def test_a_copied_stream_is_the_same_and_a_replaced_one_is_not(tmp_path: Path) -> None:
    facts = data_facts(streamed(tmp_path / "s", 1))
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    copied = load(tmp_path / "copy", streaming=True, eval_split="test")
    assert changed_fact(facts, data_facts(copied)) is None
    assert changed_fact(facts, data_facts(streamed(tmp_path / "s", 2))) == "digest of the stream"
    earlier = {name: fact for name, fact in facts.items() if name != "digest of the stream"}
    assert changed_fact(earlier, facts) is None
    assert changed_fact(earlier | {"digest": "other"}, facts) == "digest"


def test_a_digest_knows_where_one_file_ends(tmp_path: Path) -> None:
    for i, content in enumerate((b"ab", b"c", b"a", b"bc")):
        (tmp_path / str(i)).write_bytes(content)
    files = [str(tmp_path / str(i)) for i in range(4)]
    assert digest(files[:2]) != digest(files[2:])


def test_targets_that_float32_cannot_tell_apart_are_counted(tmp_path: Path) -> None:
    seconds = parquet(tmp_path / "t.parquet", table(64, label=[1_700_000_000 + i for i in range(64)]))
    data = load(seconds, task="regression", limit=40)
    assert isinstance(data.train, Resident)
    kept = len({*data.train.y.flatten().tolist()})
    (warning,) = data.warnings
    assert warning.startswith(f"data.target: 40 different values of 'label' are {kept} in float32")
    assert (
        load(parquet(tmp_path / "f.parquet", table(64, label=np.linspace(0, 1, 64).tolist()))).warnings == ()
    )


def test_two_classes_that_float32_makes_one_target_are_counted(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", table(20, label=[2**62, 2**62 + 1024] * 10))
    assert load(path).warnings[0].startswith("data.target: 2 different values of 'label' are 1 in float32")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_constant_that_standardizing_removes_is_named(tmp_path: Path, streaming: bool) -> None:
    for split in ("train", "test"):
        parquet(tmp_path / f"{split}.parquet", table(20, const=[0.1] * 20, zero=[0.0] * 20))
    (warning,) = load(tmp_path, standardize=True, streaming=streaming).warnings
    assert warning == "data.standardize: true makes constants 0, so no row keeps its magnitude by them: const"
    assert load(tmp_path, streaming=streaming).warnings == ()
    assert load(tmp_path, standardize=True, constant=True, streaming=streaming).warnings == ()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            ["NA", "FR"],
            "has 1 classes, and nothing in 10 of 20 rows (as CSV readers take NA, None, null, nan)",
        ),
        (["NA", "FR", "DE", "FR"], "row 0: no label, and nothing in 5 of 20 rows (as CSV readers take NA"),
    ],
)
def test_a_class_that_a_reader_takes_for_missing_is_explained(
    tmp_path: Path, labels: Codes, said: str
) -> None:
    assert said in refusal(csv(tmp_path / "t.csv", labels * (20 // len(labels))))


def test_names_from_strangers_cannot_draw_on_the_terminal(tmp_path: Path) -> None:
    rows = table(20, label=["\x1b[31mRED\x07", "ok\nerror: fake"] * 10)
    rows.columns = ["a\x1b[2J", "b\nwarning: fake\u202e", "label"]
    said = load(parquet(tmp_path / "t.parquet", rows)).describe()
    assert said.isprintable()
    assert (
        r"a\x1b[2J, b warning: fake\u202e; target label, 2 classes: \x1b[31mRED\x07, ok error: fake" in said
    )
    rows.columns = ["a\x1b[2J", "b", "c\x1b[2J"]
    message = refusal(parquet(tmp_path / "u.parquet", rows))
    assert message.isprintable()
    assert r"one of a\x1b[2J, b, c\x1b[2J" in message
    assert printable("ξ = 1 \t\n 2\udc80") == r"ξ = 1 2\udc80"


def test_thousands_of_columns_are_found_without_comparing_each_with_each(tmp_path: Path) -> None:
    """Each name is compared with others a few times, where every pair would be a billion."""
    compared = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    import datasets

    names: list[str] = [Name(f"c{i}") for i in range(2000)]
    features = {name: datasets.Value("float32") for name in names} | {"label": datasets.Value("int64")}
    found = find_columns(features, None, None)
    named = find_columns(features, names[:1000], None)
    assert len(found.inputs) == 2000
    assert len(named.left_out) == 1000
    assert compared < 20 * len(names)


def test_a_stream_keeps_its_digest_where_it_moves(tmp_path: Path) -> None:
    train = streamed(tmp_path / "s", 1).train
    assert isinstance(train, Stream)
    assert train.digest is not None
    assert train.to("cpu", torch.float64).with_targets(torch.Tensor.double).digest == train.digest
