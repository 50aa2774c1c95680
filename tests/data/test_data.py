import importlib.util
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaled_sgd.config import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Batch, Data, Resident, Stream, load_data, rank_rows
from scaled_sgd.data.hub import hub_is_reachable
from scaled_sgd.data.loading import read_digits
from tests.data.sources import every_row, parquet, png, refusal, saved, table, unit
from tests.data.sources import plain as load

Batches = Callable[..., Iterator[Batch]]


def test_digits_are_real_and_scaled_to_norm_root_m0() -> None:
    data = load("digits")
    assert isinstance(data.train, Resident)
    assert (len(data.train), len(data.evaluation)) == (1438, 359)
    assert (data.in_features, data.out_features, data.task) == (64, 10, "classification")
    assert data.class_names == tuple("0123456789")
    assert data.train.x.dtype == torch.float32
    assert data.train.y.dtype == torch.int64
    for part in (data.train, data.evaluation):
        torch.testing.assert_close(part.x.norm(dim=1), torch.full((len(part),), 8.0))


@pytest.mark.parametrize("found", [pytest.param(True, marks=pytest.mark.slow), False])
def test_digits_are_those_of_scikit_learn(found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    if not found:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    read = read_digits.__wrapped__
    for mine, theirs in zip(read(), load_digits(return_X_y=True), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json", "jsonl", "arrow"])
def test_numeric_columns_of_any_file_make_one_vector(tmp_path: Path, suffix: str) -> None:
    frame = table().assign(label=np.arange(20) + 0.5)
    path = tmp_path / f"table.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    elif suffix == "csv":
        frame.to_csv(path)
    elif suffix == "arrow":
        saved(tmp_path / "saved", frame.to_dict("list"))
        next((tmp_path / "saved").glob("*.arrow")).rename(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    data = load(path)
    x, y = every_row(data)
    assert (data.in_features, data.out_features, data.task, data.class_names) == (2, 1, "regression", None)
    torch.testing.assert_close(x, unit(frame[["a", "b"]]))
    torch.testing.assert_close(y, torch.arange(20).unsqueeze(1) + 0.5)


def test_named_inputs_keep_their_order(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", table().assign(y=np.arange(20.0)))
    x, _ = every_row(load(path, inputs=["b", "a"], target="y"))
    torch.testing.assert_close(x, unit(table()[["b", "a"]]))


def test_lists_and_arrays_are_flattened(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    y = [float(i) for i in range(6)]
    nested = saved(tmp_path / "nested", {"v": values.tolist(), "y": y})
    array = saved(
        tmp_path / "array",
        {"v": values.tolist(), "y": y},
        {"v": datasets.Array2D((2, 3), "float32"), "y": datasets.Value("float32")},
    )
    fixed = saved(
        tmp_path / "fixed",
        {"v": values.reshape(6, 6).tolist(), "y": y},
        {"v": datasets.List(datasets.Value("float32"), length=6), "y": datasets.Value("float32")},
    )
    for folder in (nested, array, fixed):
        torch.testing.assert_close(every_row(load(folder))[0], unit(values.reshape(6, 6)))


def test_lists_of_numbers_are_regression_targets(tmp_path: Path) -> None:
    folder = saved(
        tmp_path / "s", {"v": [[1.0, 2.0]] * 4, "target": [[float(i), 0.0, 1.0] for i in range(4)]}
    )
    data = load(folder)
    assert (data.task, data.out_features) == ("regression", 3)
    assert data.evaluation.y.dtype == torch.float32
    assert data.evaluation.y.shape == (1, 3)


def test_an_all_zero_row_stays_zero_and_extreme_rows_keep_the_norm(tmp_path: Path) -> None:
    folder = saved(tmp_path / "s", {"v": [[0.0, 0.0], [1e38, 1e38], [3e-38, 4e-38]], "y": [0.0, 1.0, 2.0]})
    x, _ = every_row(load(folder))
    torch.testing.assert_close(x, torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.6 * 2**0.5, 0.8 * 2**0.5]]))


def test_imagefolder_classes_are_folder_names(tmp_path: Path) -> None:
    for i in range(4):
        for name in ("cat", "dog"):
            png(tmp_path / "train" / name / f"{i}.png", np.full((3, 2), 10 * i + 1, np.uint8))
            png(tmp_path / "test" / name / f"{i}.png", np.full((3, 2), 7, np.uint8))
    data = load(tmp_path, eval_split="test")
    assert isinstance(data.train, Resident)
    assert (len(data.train), len(data.evaluation), data.in_features) == (8, 8, 6)
    assert data.class_names == ("cat", "dog")
    torch.testing.assert_close(data.train.x, torch.ones(8, 6))


def test_one_coloured_image_makes_all_images_coloured(tmp_path: Path) -> None:
    grey = png(tmp_path / "grey.png", np.full((2, 2), 9, np.uint8))
    colour = png(tmp_path / "colour.png", np.tile(np.array([1, 0, 0], np.uint8), (2, 2, 1)))
    folder = saved(
        tmp_path / "s",
        {"image": [str(grey), str(colour)], "y": [0.0, 1.0]},
        {"image": datasets.Image(), "y": datasets.Value("float32")},
    )
    x, _ = every_row(load(folder))
    assert x.shape == (2, 12)
    torch.testing.assert_close(x[0], torch.ones(12))
    torch.testing.assert_close(x[1], torch.tensor([3**0.5, 0, 0] * 4))


def test_sixteen_bit_images_keep_their_depth(tmp_path: Path) -> None:
    image = png(tmp_path / "deep.png", np.array([[1, 60000], [3, 4]], np.uint16))
    features = {"image": datasets.Image(), "y": datasets.Value("float32")}
    folder = saved(tmp_path / "s", {"image": [str(image)] * 2, "y": [0.0, 1.0]}, features)
    torch.testing.assert_close(every_row(load(folder))[0], unit([[1, 60000, 3, 4]] * 2))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "c", "a"], ("a", "b", "c")),
        ([0, 2, 1, 0], ("0", "1", "2")),
        ([3, 1, 2, 1], ("1", "2", "3")),
        ([True, False, False, True], ("False", "True")),
    ],
)
def test_labels_are_numbered_in_sorted_order(
    tmp_path: Path, labels: list[Any], names: tuple[str, ...]
) -> None:
    data = load(saved(tmp_path / "s", {"v": [[float(i), 1.0] for i in range(4)], "label": labels}))
    assert isinstance(data.train, Resident)
    assert data.class_names == names
    assert data.out_features == len(names)
    assert data.task == "classification"
    x, y = torch.cat([data.train.x, data.evaluation.x]), torch.cat([data.train.y, data.evaluation.y])
    row = (x[:, 0] / x[:, 1]).round().long()
    assert [names[k] for k in y[row.argsort()]] == [str(label) for label in labels]


@pytest.mark.parametrize("values", [[0, 1, 3, 7], [-1, 1, -1, 1], [18, 19, 20, 21]])
def test_integers_that_are_no_ids_are_regression_targets(tmp_path: Path, values: list[int]) -> None:
    data = load(saved(tmp_path / "s", {"v": [[1.0, 2.0]] * 4, "target": values}))
    assert data.task == "regression"
    assert data.out_features == 1


def test_evaluation_uses_the_classes_and_statistics_of_training(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    train, held_out = draw.normal(3, 5, size=(50, 3)), draw.normal(size=(10, 3))
    train[:, 1] = held_out[:, 1] = 0.1
    parts = {
        "train": datasets.Dataset.from_dict({"v": train.tolist(), "label": ["x", "y"] * 25}),
        "test": datasets.Dataset.from_dict({"v": held_out.tolist(), "label": ["y"] * 10}),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "s"))
    data = load(tmp_path / "s", eval_split="test", standardize=True)
    expected = (held_out - train.mean(0)) / train.std(0)
    expected[:, 1] = 0
    torch.testing.assert_close(data.evaluation.x, unit(expected))
    assert data.evaluation.y.tolist() == [1] * 10


def test_the_hold_out_is_disjoint_and_chosen_by_seed(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", table(30).assign(label=np.arange(30) + 0.5))
    first, again, other = load(path), load(path), load(path, seed=1)
    assert isinstance(first.train, Resident)
    assert len(first.evaluation) == 6
    assert sorted(torch.cat([first.train.y, first.evaluation.y]).flatten().tolist()) == (
        (np.arange(30) + 0.5).tolist()
    )
    assert first.evaluation.y.equal(again.evaluation.y)
    assert not first.evaluation.y.equal(other.evaluation.y)


def test_a_limit_keeps_the_hold_out(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", table(30).assign(label=np.arange(30) + 0.5))
    whole, limited = load(path), load(path, limit=5)
    assert isinstance(whole.train, Resident)
    assert isinstance(limited.train, Resident)
    assert limited.evaluation.y.equal(whole.evaluation.y)
    assert len(limited.train) == 5
    assert {*limited.train.y.flatten().tolist()} < {*whole.train.y.flatten().tolist()}


def test_a_local_folder_comes_before_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("csv").mkdir()
    table().to_csv("csv/train.csv", index=False)
    assert load("csv").in_features == 2


def test_the_task_can_be_insisted_on(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"a": [1.0, 2.0, 3.0, 4.0] * 5, "y": [3, 7, 3, 9] * 5, "z": [0.5, 1.0, 2.0, 1.0] * 5}
    )
    table.to_csv(tmp_path / "t.csv", index=False)

    def task(target: str, wanted: str) -> Data:
        config = DataConfig(source=str(tmp_path / "t.csv"), inputs=["a"], target=target, task=wanted)
        return load_data(config, seed=0)

    assert task("y", "auto").task == "regression"
    insisted = task("y", "classification")
    assert insisted.class_names == ("3", "7", "9")
    assert task("y", "regression").out_features == 1
    with pytest.raises(UserError, match=r"data\.task: 'classification' does not fit column 'z' of double"):
        task("z", "classification")


@pytest.fixture
def unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.usefixtures("unreachable_hub")
def test_an_unreachable_hub_is_told() -> None:
    message = refusal("someone/something")
    assert message == (
        "data.source: cannot reach the Hugging Face hub for 'someone/something'; "
        "allowed without it: a local parquet, CSV or JSON file or a save_to_disk folder"
    )
    assert not datasets.config.HF_HUB_OFFLINE


@pytest.mark.usefixtures("unreachable_hub")
def test_a_data_set_in_the_cache_needs_no_hub(tmp_path: Path, own_cache: Path) -> None:
    path = parquet(tmp_path / "t.parquet", table())
    expected = load(path)
    cached = next(own_cache.glob("parquet/*/*/*/dataset_info.json"))
    folder = own_cache / "someone___something" / "default" / "0.0.0" / "0123456789abcdef"
    folder.parent.mkdir(parents=True)
    cached.parent.rename(folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    info |= {"dataset_name": "something", "config_name": "default"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for file in folder.glob("parquet-*.arrow"):
        file.rename(folder / file.name.replace("parquet", "something"))
    assert load("someone/something").evaluation.x.equal(expected.evaluation.x)


@pytest.mark.usefixtures("unreachable_hub")
def test_any_http_status_counts_as_an_answer_and_silence_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub_is_reachable()
        server.shutdown()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(
            "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        assert not hub_is_reachable(timeout=0.1)


@given(st.integers(0, 1000), st.integers(1, 40))
def test_ranks_share_rows_evenly_and_in_order(n: int, world_size: int) -> None:
    parts = [range(n)[rank_rows(n, rank, world_size)] for rank in range(world_size)]
    assert [row for part in parts for row in part] == [*range(n)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank: 2; allowed: 0\.\.1"):
        rank_rows(5, 2, 2)


def global_batches(
    batches: Batches, world_size: int, **options: Any
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ranks = [
        list(batches(**{"seed": 1, "epoch": 0, **options}, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    joined = []
    for parts in zip(*ranks, strict=True):
        assert {part.n_global for part in parts} == {sum(len(part.own()[0]) for part in parts)}
        x, y = (torch.cat(own) for own in zip(*(part.own() for part in parts), strict=True))
        joined.append((x, y))
    return joined


def assert_same_batches(
    a: list[tuple[torch.Tensor, torch.Tensor]], b: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    assert len(a) == len(b)
    for (x, y), (other_x, other_y) in zip(a, b, strict=True):
        assert x.equal(other_x)
        assert y.equal(other_y)


def shards(folder: Path, *, images: bool) -> Path:
    """Five parquet shards of 11 training rows and one of 6 held-out rows, whose targets are all different."""
    folder.mkdir()
    for name, first, n in [*((f"train-{k}-of-5", 11 * k, 11) for k in range(5)), ("test-0-of-1", 55, 6)]:
        draw = np.random.default_rng(first)
        columns: dict[str, Any] = {"y": [float(i) for i in range(first, first + n)]}
        features: dict[str, Any] = {"y": datasets.Value("float32")}
        if images:
            pixels = draw.integers(1, 255, (n, 3, 3)).astype(np.uint8)
            columns["image"] = [PIL.Image.fromarray(image) for image in pixels]
            features["image"] = datasets.Image()
        else:
            columns["v"] = draw.normal(size=(n, 4)).tolist()
            features["v"] = datasets.List(datasets.Value("float32"))
        rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        rows.to_parquet(str(folder / f"{name}.parquet"))
    return folder


@pytest.fixture(scope="module", params=["resident", "stream", "image stream"])
def train(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Resident | Stream:
    place = tmp_path_factory.mktemp("train")
    streaming = request.param != "resident"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", place / "cache")
        folder = shards(place / "shards", images=request.param == "image stream")
        return load(folder, eval_split="test", streaming=streaming, shuffle_buffer=16).train


def test_minibatches_do_not_depend_on_the_number_of_processes(train: Resident | Stream) -> None:
    alone = global_batches(train.batches, 1, batch_size=9)
    assert [len(x) for x, _ in alone] == [9] * 6 + [1]
    assert sorted(torch.cat([y for _, y in alone]).flatten().tolist()) == [*range(55)]
    for world_size in (2, 4):
        assert_same_batches(global_batches(train.batches, world_size, batch_size=9), alone)


def test_every_rank_has_the_whole_minibatch_of_resident_data_and_only_its_own_of_a_stream(
    train: Resident | Stream,
) -> None:
    alone = global_batches(train.batches, 1, batch_size=9)
    for rank in range(2):
        batches = train.batches(batch_size=9, seed=1, epoch=0, rank=rank, world_size=2)
        for batch, (x, y) in zip(batches, alone, strict=True):
            assert batch.own()[0].equal(x[batch.own_rows])
            if isinstance(train, Resident):
                assert batch.whole()[0].equal(x)
                assert batch.whole()[1].equal(y)
            elif len(batch.own()[0]) < len(x):
                with pytest.raises(ValueError, match="allowed of a stream on this rank"):
                    batch.whole()


def test_the_order_is_chosen_by_seed_and_epoch(train: Resident | Stream) -> None:
    def order(seed: int, epoch: int) -> list[float]:
        joined = global_batches(train.batches, 1, batch_size=9, seed=seed, epoch=epoch)
        return torch.cat([y for _, y in joined]).flatten().tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert order(1, 0) != sorted(order(1, 0))


@pytest.mark.parametrize("start", [1, 6, 7, 20])
def test_a_run_resumes_in_the_middle_of_an_epoch(train: Resident | Stream, start: int) -> None:
    whole = global_batches(train.batches, 2, batch_size=9)
    assert_same_batches(global_batches(train.batches, 2, batch_size=9, start=start), whole[start:])


def test_minibatches_come_in_the_type_asked_for(train: Resident | Stream) -> None:
    batch = next(train.to("cpu", torch.float64).batches(batch_size=3, seed=0, epoch=0))
    assert [t.dtype for t in batch.own()] == [torch.float64, torch.float64]
    assert Resident(torch.ones(2, 2), torch.tensor([0, 1])).to("cpu", torch.float64).y.dtype == torch.int64


def test_a_stream_has_the_values_of_resident_data(tmp_path: Path) -> None:
    for images in (False, True):
        folder = shards(tmp_path / f"shards-{images}", images=images)
        resident, streamed = (load(folder, eval_split="test", streaming=s) for s in (False, True))
        assert isinstance(resident.train, Resident)
        assert resident.evaluation.x.equal(streamed.evaluation.x)
        assert streamed.in_features == resident.in_features == (9 if images else 4)
        joined = global_batches(streamed.train.batches, 1, batch_size=55)
        order = joined[0][1].flatten().argsort()
        assert joined[0][0][order].equal(resident.train.x)


def test_a_rank_decodes_only_its_own_rows(tmp_path: Path) -> None:
    train = load(shards(tmp_path / "s", images=True), eval_split="test", streaming=True).train
    assert isinstance(train, Stream)
    decoded: list[int] = []

    def counting(rows: Any, first_row: int) -> tuple[torch.Tensor, torch.Tensor]:
        decoded.append(len(rows))
        return decode(rows, first_row)

    decode = train.decode
    counted = replace(train, decode=counting)
    assert len(list(counted.batches(batch_size=8, seed=0, epoch=0, rank=1, world_size=4, start=5))) == 2
    assert decoded == [2, 2]


def test_steps_are_counted_with_the_ragged_last_one() -> None:
    rows = Resident(torch.ones(55, 1), torch.zeros(55, 1))
    assert [rows.steps_per_epoch(size) for size in (5, 9, 55, 100)] == [11, 7, 1, 1]


def test_streamed_integer_labels_take_their_range_from_the_held_out_split(tmp_path: Path) -> None:
    table(12, label=[i % 3 for i in range(12)]).to_csv(tmp_path / "train.csv", index=False)
    table(6, label=[i % 3 for i in range(6)]).to_csv(tmp_path / "test.csv", index=False)
    data = load(tmp_path, eval_split="test", streaming=True)
    assert data.class_names == ("0", "1", "2")
    joined = global_batches(data.train.batches, 2, batch_size=12)
    assert sorted(joined[0][1].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    table(6, label=[i % 2 for i in range(6)]).to_csv(tmp_path / "test.csv", index=False)
    narrow = load(tmp_path, eval_split="test", streaming=True)
    with pytest.raises(UserError, match=r"data\.target: column 'label', row \d+: label 2 .*; allowed: 0, 1"):
        list(narrow.train.batches(batch_size=12, seed=0, epoch=0))


def test_a_saved_folder_can_be_streamed(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict(
        {"v": [[float(i), 1.0] for i in range(8)], "y": [0.5 * i for i in range(8)]}
    )
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "s"))
    data = load(tmp_path / "s", streaming=True, eval_split="test")
    (x, y), *_ = global_batches(data.train.batches, 2, batch_size=8)
    torch.testing.assert_close(x[y.flatten().argsort()], unit([[i, 1] for i in range(8)]))
