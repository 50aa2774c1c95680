"""Tables as people have them: columns of other scales, constants, text, gaps and dates become inputs."""

import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from scaled_sgd import load_run
from scaled_sgd.config import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Resident, load_data
from scaled_sgd.data.given import GIVEN
from scaled_sgd.data.new_rows import read_rows
from scaled_sgd.data.normalization import Moments
from scaled_sgd.data.pipeline import Pipeline
from tests.data.sources import load, parquet, refusal, saved, unit
from tests.training import run_all

NUMBERS, TEXTS = ["area", "rooms", "one"], ["town", "zip"]


def houses(n: int = 90, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "area": draw.lognormal(5, 0.5, n),
            "town": draw.choice(["Riga", "Oslo", "Bonn"], n),
            "rooms": draw.integers(1, 9, n).astype(float),
            "one": 1.0,
            "zip": draw.choice(["01", "02", "30"], n),
            "price": 1e5 * draw.lognormal(0, 0.4, n),
        }
    )
    rows.loc[draw.choice(n, n // 10, replace=False), "rooms"] = np.nan
    rows.loc[3, "town"] = None
    return rows


def splits(folder: Path, suffix: str = "csv") -> tuple[pd.DataFrame, pd.DataFrame]:
    folder.mkdir(exist_ok=True)
    parts = houses(), houses(30, 1)
    for name, part in zip(("train", "test"), parts, strict=True):
        if suffix == "csv":
            part.to_csv(folder / f"{name}.csv", index=False)
        else:
            parquet(folder / f"{name}.parquet", part)
    return parts


def by_scikit_learn(train: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Numbers standardised with gaps at the mean, one number a text, and a constant as large as a row."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    made = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), TEXTS),
        verbose_feature_names_out=False,
    )
    fitted = made.fit(train[[*NUMBERS, *TEXTS]])
    names = [str(name).replace("_nan", "_None") for name in fitted.get_feature_names_out()]
    x = pd.DataFrame(fitted.transform(rows[[*NUMBERS, *TEXTS]]), columns=names)
    order = ["area", "town_Bonn", "town_Oslo", "town_Riga", "town_None", "rooms", "one"]
    order += ["zip_01", "zip_02", "zip_30"]
    # Two numbers vary, and each of two texts counts as one.
    return np.asarray(x[order].assign(constant=math.sqrt(4)), np.float64)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.slow
def test_inputs_are_those_of_scikit_learns_transformers(tmp_path: Path, suffix: str, streaming: bool) -> None:
    from sklearn.preprocessing import StandardScaler

    train, test = splits(tmp_path / "d", suffix)
    data = load(tmp_path / "d", target="price", streaming=streaming)
    assert data.config.eval_split == "test"
    torch.testing.assert_close(data.evaluation.x, unit(by_scikit_learn(train, test)), rtol=1e-5, atol=1e-6)
    scaler = StandardScaler().fit(train[["price"]])
    y = torch.from_numpy(scaler.transform(test[["price"]])).float()
    torch.testing.assert_close(data.evaluation.y, y, rtol=1e-5, atol=1e-6)
    in_unit = data.pipeline.in_unit(data.evaluation.y)
    np.testing.assert_allclose(in_unit.numpy(), test[["price"]].to_numpy(), rtol=1e-6)
    if isinstance(data.train, Resident):
        torch.testing.assert_close(data.train.x, unit(by_scikit_learn(train, train)), rtol=1e-5, atol=1e-6)
    else:
        batches = [batch.own()[0] for batch in data.train.batches(batch_size=90, seed=0, epoch=0)]
        expected = unit(by_scikit_learn(train, train)).sort(dim=0).values
        torch.testing.assert_close(torch.cat(batches).sort(dim=0).values, expected, rtol=1e-5, atol=1e-6)


def test_the_stored_pipeline_makes_the_inputs_of_training(tmp_path: Path) -> None:
    _, test = splits(tmp_path / "d")
    data = load(tmp_path / "d", target="price")
    again = Pipeline.from_dict(json.loads(json.dumps(data.pipeline.as_dict())))
    for source in (str(tmp_path / "d" / "test.csv"), test):
        rows = read_rows(source, again)
        assert torch.equal(again.inputs(rows.table), data.evaluation.x)
        assert torch.equal(again.targets(rows.table), data.evaluation.y)


def test_moments_of_pieces_are_those_of_the_whole() -> None:
    x = np.random.default_rng(0).lognormal(size=(50, 3)) * (1, 1e3, 0) + (0, 1e6, 7)
    x[3:9, 1] = np.nan
    whole, pieces = Moments.of(x), Moments.of(x[:20]).merged(Moments.of(x[20:21])).merged(Moments.of(x[21:]))
    for name in ("rows", "counts", "means", "variances", "least", "most"):
        np.testing.assert_allclose(getattr(pieces, name), getattr(whole, name), rtol=1e-12, err_msg=name)
    filled = whole.filled(np.array([0.0, -5.0, 0.0]))
    expected = np.where(np.isnan(x), -5.0, x)
    np.testing.assert_allclose(filled.means, expected.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(filled.variances, expected.var(axis=0), rtol=1e-9, atol=1e-12)


def test_a_constant_is_appended_to_tables_and_not_to_lists_and_images(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", houses()[["area", "one", "price"]])
    x = load(path, target="price").evaluation.x
    assert x.shape[1] == 3
    assert (x[:, 2] > 0).all()
    np.testing.assert_allclose(torch.linalg.vector_norm(x, dim=1), math.sqrt(3), rtol=1e-6)
    assert load(path, target="price", constant=False).in_features == 2
    lists = saved(tmp_path / "s", {"v": [[1.0, 2.0]] * 9, "y": [0.5, 1.5, 2.0] * 3})
    data = load(lists)
    assert (data.in_features, data.config.constant, data.config.standardize) == (2, False, False)
    assert load(lists, constant=True).in_features == 3


def test_a_table_of_the_old_defaults_is_as_it_was(tmp_path: Path) -> None:
    rows = houses()[["area", "one", "price"]]
    path = parquet(tmp_path / "t.parquet", rows)
    old: dict[str, Any] = {
        "standardize": False,
        "constant": False,
        "standardize_target": False,
        "eval_split": None,
    }
    data = load(path, target="price", **old)
    assert isinstance(data.train, Resident)
    x = torch.cat([data.train.x, data.evaluation.x])
    y = torch.cat([data.train.y, data.evaluation.y])
    rows = rows.sort_values("price")
    torch.testing.assert_close(x[y[:, 0].argsort()], unit(rows[["area", "one"]]))
    torch.testing.assert_close(y[:, 0].sort().values, torch.tensor(rows["price"].to_numpy()).float())


def test_text_is_an_input_where_it_has_few_texts(tmp_path: Path) -> None:
    rows = houses().assign(
        note=[f"no. {i}" for i in range(90)],
        sold=pd.date_range("2020-01-01", periods=90).strftime("%Y-%m-%d"),
        built=pd.date_range("1990-01-01", periods=90),
        void=[None] * 90,
    )
    data = load(parquet(tmp_path / "t.parquet", rows), target="price")
    assert data.columns.inputs == ("area", "town", "rooms", "one", "zip")
    said = "\n".join(data.warnings)
    assert "dates are no inputs: sold, built" in said
    assert "another in most rows, are left out: note" in said
    (note,) = data.notes
    assert note.startswith("data.missing: empty cells of training rows are filled with the mean: rooms (")
    path = tmp_path / "t.parquet"
    assert load(path, target="price", categories=2).columns.inputs == ("area", "rooms", "one")
    assert refusal(path, target="price", inputs=["town"], categories=2) == (
        "data.inputs: column 'town' holds more than 2 texts; allowed: fewer, or a larger data.categories"
    )
    for name in ("sold", "built"):
        assert refusal(path, target="price", inputs=[name]).startswith(
            f"data.inputs: column {name!r} holds dates; allowed: numbers instead"
        )
    assert refusal(path, target="price", inputs=["town"], categories=0).endswith(
        "allowed: images, numbers and lists of numbers"
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_text_beside_a_list_is_read_again_by_the_stored_configuration(
    tmp_path: Path, streaming: bool
) -> None:
    rows = pd.DataFrame(
        {"v": [[float(i), 1.0] for i in range(20)], "town": ["a", "b"] * 10, "y": [0, 1] * 10}
    )
    for split in ("train", "test"):
        parquet(tmp_path / f"{split}.parquet", rows)
    data = load(tmp_path, inputs=["v", "town"], streaming=streaming)
    again = load_data(data.config, seed=0)
    assert data.pipeline.encoding.texts == again.pipeline.encoding.texts == {"town": ("a", "b")}
    assert torch.equal(data.evaluation.x, again.evaluation.x)


@pytest.mark.slow
def test_a_text_that_training_has_not_is_none_of_its_texts(tmp_path: Path) -> None:
    train, test = splits(tmp_path)
    test.loc[4, "town"] = "Rome"
    test.to_csv(tmp_path / "test.csv", index=False)
    data = load(tmp_path, target="price")
    assert any(
        "column 'town': 1 of 30 rows hold what no training row has, such as 'Rome'" in w
        for w in data.warnings
    )
    torch.testing.assert_close(data.evaluation.x, unit(by_scikit_learn(train, test)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_texts_and_means_are_those_of_training_rows_only(tmp_path: Path) -> None:
    rows = houses()
    path = parquet(tmp_path / "t.parquet", rows)
    held_out = load(path, target="price").pipeline.in_unit(load(path, target="price").evaluation.y)
    own = rows["price"].astype("float32").isin(held_out.flatten().float().tolist())
    rows.loc[own, ["town", "rooms"]] = ["Rome", 1e6]
    data = load(parquet(path, rows), target="price")
    assert "Rome" not in data.pipeline.encoding.texts["town"]
    assert data.pipeline.normalization.fills is not None
    assert data.pipeline.normalization.fills.max() < 1e5


def test_gaps_are_filled_with_a_number_or_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", houses())
    data = load(path, target="price", inputs=["rooms"], missing=-1.0)
    assert data.pipeline.normalization.fills is not None
    assert data.pipeline.normalization.fills.tolist() == [-1.0]
    assert "column 'rooms'" in refusal(path, target="price", inputs=["area", "rooms"], missing="refuse")
    assert refusal(path, target="price", inputs=["town"], missing="refuse") == (
        "data.inputs: column 'town', row 3: nothing (1 of 90 rows); allowed: text"
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_without_any_number_is_left_out_unless_it_is_named(tmp_path: Path, streaming: bool) -> None:
    rows = houses()
    for name, part in (("without", rows.drop(columns="rooms")), ("with", rows.assign(rooms=np.nan))):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            part.to_csv(tmp_path / name / f"{split}.csv", index=False)
    expected = load(tmp_path / "without", target="price", streaming=streaming)
    data = load(tmp_path / "with", target="price", streaming=streaming)
    assert torch.equal(data.evaluation.x, expected.evaluation.x)
    assert data.columns.left_out == ("rooms",)
    assert data.warnings == ("data.inputs: columns without any number are left out: rooms",)
    assert refusal(tmp_path / "with", target="price", inputs=["rooms"], streaming=streaming).startswith(
        "data.missing: 'mean' is not known of column 'rooms', which no training row has"
    )


@pytest.mark.parametrize(
    ("target", "warning"),
    [
        (
            [f"{i:,} €" for i in range(3000, 3020)],
            "'y' has 20 classes in 20 rows; for regression: plain numb",
        ),
        (list(range(20)), "'y' has 20 classes in 20 rows; for regression: data.task regression"),
        ([7.5] * 20, "'y' is 7.5 in all training rows: there is nothing to learn"),
        ([0, 1] * 10, None),
    ],
)
def test_targets_from_which_nothing_is_learned_are_said(
    tmp_path: Path, target: list[Any], warning: str | None
) -> None:
    rows = pd.DataFrame({"a": np.arange(20) % 7, "y": target})
    found = load(parquet(tmp_path / "t.parquet", rows)).warnings
    assert len(found) == (warning is not None)
    assert all(line.startswith(f"data.target: column {warning}") for line in found)


def test_several_targets_are_standardised_each(tmp_path: Path) -> None:
    y = np.random.default_rng(0).normal((5, -1e6), (1, 1e4), (40, 2))
    path = saved(tmp_path / "s", {"v": np.ones((40, 3)).tolist(), "y": y.tolist()})
    data = load(path)
    assert isinstance(data.train, Resident)
    np.testing.assert_allclose(data.train.y.mean(dim=0), [0, 0], atol=1e-6)
    np.testing.assert_allclose(data.train.y.std(dim=0, correction=0), [1, 1], rtol=1e-5)
    assert data.config.standardize_target
    assert not load(path, standardize_target=False).config.standardize_target


@pytest.mark.parametrize(
    "source",
    [
        houses(),
        datasets.Dataset.from_pandas(houses()),
        dict(houses()),
        {
            "data": houses()[NUMBERS].to_numpy(),
            "feature_names": NUMBERS,
            "target": houses()["price"].to_numpy(),
        },
        (houses()[NUMBERS].to_numpy(), houses()["price"].to_numpy()),
    ],
    ids=["pandas", "datasets", "columns", "bunch", "arrays"],
)
def test_data_in_memory_are_those_of_a_file(source: Any, tmp_path: Path) -> None:
    inputs = None if not isinstance(source, tuple) and "data" not in source else NUMBERS
    target = "price" if inputs is None else None
    expected = load(parquet(tmp_path / "t.parquet", houses()), target="price", inputs=inputs)
    found = load_data(DataConfig(source=GIVEN, target=target), seed=0, source=source)
    assert torch.equal(found.evaluation.x, expected.evaluation.x)
    assert torch.equal(found.evaluation.y, expected.evaluation.y)


def test_other_objects_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^source: type int does not fit; allowed: a pair \(x, y\) of arrays"
    ):
        load_data(DataConfig(), seed=0, source=3)
    with pytest.raises(UserError, match=r"^data.streaming: true does not fit data in memory"):
        load_data(DataConfig(source="x", streaming=True), seed=0, source=houses())


@pytest.mark.slow
def test_tables_and_streams_of_them_train_alike_on_any_number_of_processes(tmp_path: Path) -> None:
    splits(tmp_path / "d")
    small = ("--model.depth=3", "--model.base_width=3", "--model.dtype=float64", "--run.device=cpu")
    table = (*small, f"--data.source={tmp_path / 'd'}", "--data.target=price", "--optim.steps=6")
    runs = [(*table, "--run.name=table"), (*table, "--data.streaming=true", "--run.name=stream")]
    figures: dict[str, list[float]] = {"table": [], "stream": []}
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        run_all(runs, processes, where=tmp_path / str(processes))
        for name, found in figures.items():
            folder = tmp_path / str(processes) / "runs" / name
            found.append(json.loads((folder / "summary.json").read_text())["mse"])
            run = load_run(folder)
            assert run.evaluate(tmp_path / "d" / "test.csv")["mse"] == pytest.approx(found[-1], rel=1e-9)
    for one, two in figures.values():
        assert two == pytest.approx(one, rel=1e-9)
