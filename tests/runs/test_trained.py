"""A run's trained network predicts what the trainer's own evaluation computed."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState

from scaled_sgd import HomogeneousMLP, load_run
from scaled_sgd.cli import main
from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import LostError, StoppedError, UserError
from scaled_sgd.runs.pretrained import CONFIG, WEIGHTS
from scaled_sgd.train.accelerator import create_accelerator
from scaled_sgd.train.evaluation import mean_loss
from scaled_sgd.train.progress import Progress
from scaled_sgd.train.saver import Saver
from scaled_sgd.train.snapshot import Progressed
from scaled_sgd.train.trainer import Trainer
from tests.data.test_idx import pair
from tests.training import run_all

pytestmark = pytest.mark.usefixtures("fresh_world")

SMALL = ("--model.depth=3", "--model.base_width=3", "--optim.steps=4", "--optim.batch_size=8", "--optim.lr=1")
DRAW = np.random.default_rng(1)


def train(*arguments: str) -> Trainer:
    config = parse([*SMALL, "--run.name=run", "--model.dtype=float64", *arguments])
    trainer = Trainer(config, create_accelerator(config))
    trainer.run()
    return trainer


def evaluated(trainer: Trainer) -> torch.Tensor:
    """Outputs of the trainer on its held-out rows."""
    session, strategy = trainer.session, trainer.strategy
    return mean_loss(strategy.forward, session.samples.held_out, loss=session.loss, ranks=strategy.data)[1]


def table(n: int, seed: int, **target: Any) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {"a": draw.normal(size=n), "b": 100 + draw.integers(0, 9, n), "one": 1.0, "note": "text", **target}
    )


def codes(folder: Path) -> tuple[str, ...]:
    for seed, part in enumerate(("train", "test")):
        code = [("A1", "01", "7")[i % 3] for i in range(12)]
        table(12, seed, label=code).to_csv(folder / f"{part}.csv", index=False)
    return ()


def standardized(folder: Path) -> tuple[str, ...]:
    return (*codes(folder), "--data.standardize=true", "--loss=mse")


def regression(folder: Path) -> tuple[str, ...]:
    for seed, part in enumerate(("train", "test")):
        table(12, seed, price=DRAW.normal(size=12)).to_parquet(folder / f"{part}.parquet", index=False)
    return ("--data.target=price", "--data.standardize=true")


def several_numbers(folder: Path) -> tuple[str, ...]:
    for part in ("train", "test"):
        rows = {"x": DRAW.normal(size=(9, 4)).tolist(), "y": DRAW.normal(size=(9, 2)).tolist()}
        datasets.Dataset.from_dict(rows).to_parquet(str(folder / f"{part}.parquet"))
    return ("--data.inputs=[x]",)


def images(folder: Path) -> tuple[str, ...]:
    from PIL import Image

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    for part in ("train", "test"):
        pixels = [Image.fromarray(DRAW.integers(0, 256, (3, 5, 3)).astype(np.uint8)) for _ in range(8)]
        rows = datasets.Dataset.from_dict({"image": pixels, "label": [0, 1] * 4}, features=features)
        rows.to_parquet(str(folder / f"{part}.parquet"))
    return ()


def idx(folder: Path) -> tuple[str, ...]:
    pair(folder, "train", "{}-idx{}-ubyte.gz")
    pair(folder, "t10k", "{}-idx{}-ubyte.gz")
    return ()


@pytest.mark.parametrize("make", [codes, standardized, regression, several_numbers, images, idx])
def test_predictions_are_the_outputs_of_the_trainers_evaluation(
    tmp_path: Path, make: Callable[[Path], tuple[str, ...]]
) -> None:
    (tmp_path / "data").mkdir()
    trainer = train("--data.source=data", "--data.eval_split=test", *make(tmp_path / "data"))
    summary = json.loads(Path("runs/run/summary.json").read_text())
    # From model/, then from the checkpoint, for which the data are not needed.
    for path in ("runs/run", "runs/run/checkpoints/step-4"):
        run = load_run(path)
        found = run.predict("data", split="test")
        assert found.outputs.dtype == torch.float64
        torch.testing.assert_close(found.outputs, evaluated(trainer), rtol=1e-12, atol=1e-12)
        figures = run.evaluate("data", split="test")
        assert figures.pop("loss") == pytest.approx(summary["eval_loss"], rel=1e-12)
        for name, value in figures.items():
            assert value == pytest.approx(summary[name], rel=1e-12)
    if run.classes is None:
        in_unit = run.pipeline.in_unit(found.outputs).numpy()
        np.testing.assert_array_equal(np.squeeze(in_unit), found.values)
    else:
        best = evaluated(trainer).argmax(1).tolist()
        assert found.values.tolist() == [run.classes[i] for i in best]
        assert (found.probabilities is None) == (run.loss == "mse")


def test_tables_and_arrays_give_the_predictions_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    train("--data.source=data", "--data.eval_split=test", *standardized(tmp_path / "data"))
    run, frame = load_run("runs/run"), pd.read_csv("data/test.csv")
    expected = run.predict("data/test.csv").outputs
    assert run.classes == ("01", "7", "A1")
    assert run.config["training"]["steps"] == 4
    rows = frame[["a", "b", "one"]]
    for source in (
        frame,
        rows,
        rows.to_numpy(),
        torch.from_numpy(rows.to_numpy()),
        dict(rows),
        datasets.Dataset.from_pandas(frame),
    ):
        torch.testing.assert_close(run.predict(source).outputs, expected, rtol=0, atol=0)
    with pytest.raises(UserError, match="no column 'label'; allowed: data with the target"):
        run.evaluate(rows)
    with pytest.raises(UserError, match="no column 'b', only a, one; allowed"):
        run.predict(rows.drop(columns="b"))
    with pytest.raises(UserError, match="rows of 2 numbers; allowed: 3"):
        run.predict(np.ones((4, 2)))
    with pytest.raises(UserError, match="not finite"):
        run.predict(np.full((4, 3), np.inf))


def test_classes_count_by_name_whatever_their_number_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    train("--data.source=data", "--data.eval_split=test", *images(tmp_path / "data"))
    run, test = (
        load_run("runs/run"),
        datasets.load_dataset("parquet", data_files="data/test.parquet")["train"],
    )
    other = test.map(lambda row: {"label": 1 - row["label"]}).cast_column(
        "label", datasets.ClassLabel(names=["dog", "cat"])
    )
    assert run.evaluate(other) == run.evaluate(test)


@pytest.mark.slow
def test_a_run_of_an_earlier_version_takes_its_pipeline_from_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    arguments = (
        f"--data.source={tmp_path / 'data'}",
        "--data.eval_split=test",
        *standardized(tmp_path / "data"),
    )
    stored = Saver._state

    def before(saver: Saver, progressed: Progressed) -> dict[str, Any]:
        return {key: value for key, value in stored(saver, progressed).items() if key != "pipeline"}

    monkeypatch.setattr(Saver, "_state", before)
    trainer = train(*arguments)
    shutil.rmtree("runs/run/model")
    found = load_run("runs/run").predict("data", split="test").outputs
    torch.testing.assert_close(found, evaluated(trainer), rtol=1e-12, atol=1e-12)
    table(12, 7, label=["A1", "01", "7"] * 4).to_csv("data/train.csv", index=False)
    with pytest.raises(UserError, match=r"no stored pipeline, and '.*data' holds other data than"):
        load_run("runs/run")
    shutil.rmtree("data")
    with pytest.raises(UserError, match="no stored pipeline, and its data are not here"):
        load_run("runs/run")


def test_a_network_is_saved_and_loaded_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = HomogeneousMLP(
        5, 2, depth=3, base_width=2, width_exponent=1.5, activation=(0.3, 0.7), parameterization="mup", seed=3
    )
    with torch.no_grad():
        network.scaled_layers[1].weight.add_(1)
    network.save_pretrained(tmp_path / "net")
    again = HomogeneousMLP.from_pretrained(tmp_path / "net")
    x = torch.randn(4, 5)
    torch.testing.assert_close(again(x), network(x), rtol=1e-6, atol=1e-6)
    for (name, mine), (other, theirs) in zip(
        network.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(mine, theirs)
    card = (tmp_path / "net/README.md").read_text()
    assert "library_name: scaled_sgd" in card
    assert "widths 5 × 2 × 6 × 2 (mup)" in card
    with pytest.raises(UserError, match=r"has no config\.json; allowed: model/ of a run, or a folder"):
        HomogeneousMLP.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="no folder 'nobody/nothing', and none on the hub"):
        HomogeneousMLP.from_pretrained("nobody/nothing", local_files_only=True)


def test_a_network_is_published_through_the_mixin_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: dict[str, Any] = {}

    class Hub:
        def __init__(self, token: str | None = None) -> None: ...

        def create_repo(self, *, repo_id: str, private: bool, exist_ok: bool) -> Any:
            assert (private, exist_ok) == (True, True)
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, folder_path: Path, **options: Any) -> str:
            uploaded.update(options, files={path.name: path.read_bytes() for path in folder_path.iterdir()})
            return "https://hub/me/net/commit/1"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    network = HomogeneousMLP(5, 2, depth=2, base_width=2, seed=0)
    assert network.push_to_hub("me/net", private=True, branch="next") == "https://hub/me/net/commit/1"
    assert (uploaded["repo_id"], uploaded["revision"]) == ("me/net", "next")
    assert uploaded["files"].keys() == {CONFIG, WEIGHTS, "README.md"}
    assert b'HomogeneousMLP.from_pretrained("me/net")' in uploaded["files"]["README.md"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def edited(*keys: str, value: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        whole = place = json.loads((path.parent / CONFIG).read_text())
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        (path.parent / CONFIG).write_text(json.dumps(whole))

    return edit


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "model.safetensors: "),
        (lambda path: path.unlink(), "model.safetensors is not there"),
        (lambda path: (path.parent / CONFIG).write_text("{" * 100_000), "config.json is not JSON"),
        (lambda path: (path.parent / CONFIG).write_text("[]"), "config.json is not an object"),
        (edited("depth", value=4), "has 3 tensors, not 4"),
        (edited("depth", value="3"), "has 3 tensors, not '3'"),
        (edited("base_width", value=10**6), "has layers.0.weight of"),
        (edited("base_width", value=None), "base_width"),
        (edited("dtype", value="float32"), "has layers.0.weight of"),
        (edited("dtype", value=["float32"]), "lacks a usable dtype"),
        (edited("activation", value={}), "activation"),
        (edited("parameterization", value=[1]), "parameterization"),
        (edited("seed", value=-1), "seed"),
        (edited("loss", value="hinge"), "do not fit each other"),
        (edited("pipeline", value=None), "pipeline lacks a field"),
        (edited("pipeline", "width", value=63), "unusable standardization"),
        (edited("pipeline", "classes", value=[{}] * 10), "unusable classes"),
        (edited("pipeline", "class_names", value=["x"] * 10), "unusable class_names"),
        (edited("pipeline", "images", value={"pixels": {"mode": "X", "white": 1}}), "pipeline lacks a field"),
        (edited("pipeline", "standardization", "means", value=[1e999] * 64), "unusable standardization"),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(
    damage: Callable[[Path], None], said: str, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    damage(tmp_path / "run/model" / WEIGHTS)
    with pytest.raises(UserError) as caught:
        load_run(tmp_path / "run")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits that has finished."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("--data.standardize=true")
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder / "runs/run"


def test_a_folder_without_a_model_says_what_is_missing(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model/ and no checkpoint"):
        load_run(tmp_path)
    with pytest.raises(UserError, match="is no folder; allowed: a run directory"):
        load_run(tmp_path / "nothing")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model").symlink_to(finished / "model")
    with pytest.raises(UserError, match="it is a link"):
        load_run(tmp_path / "run")


def test_a_model_that_cannot_be_written_is_said_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scaled_sgd.runs.pretrained.replace_file", full)
    with pytest.raises(LostError, match=r"end of the run cannot be written: No space left"):
        train()
    assert not Path("runs/run/model", CONFIG).exists()


def test_an_interrupted_run_has_its_network_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_self: Progress, step: int) -> None:
        if step == 2:
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(Progress, "after_step", interrupt)
    before = signal.getsignal(signal.SIGUSR1)
    try:
        with pytest.raises(StoppedError, match="SIGUSR1 after step 2, saved in"):
            train()
    finally:
        signal.signal(signal.SIGUSR1, before)
    model, checkpoint = load_run("runs/run/model"), load_run("runs/run/checkpoints/step-2")
    for mine, theirs in zip(model.model.parameters(), checkpoint.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert model.pipeline == checkpoint.pipeline
    assert model.config["training"]["steps"] == 2
    assert "interrupted after 2 steps" in Path("runs/run/model/README.md").read_text()


def test_a_resumed_run_has_no_model_until_it_ends(tmp_path: Path) -> None:
    train()
    config = parse([*SMALL, "--run.name=run", "--model.dtype=float64", "--run.resume=auto"])
    AcceleratorState._reset_state(reset_partial_state=True)
    trainer = Trainer(config, create_accelerator(config))
    assert not Path("runs/run/model").exists()
    trainer.run()
    assert Path("runs/run/model", CONFIG).is_file()


def test_commands_predict_evaluate_and_list(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_run(finished)
    expected = run.predict("digits")
    for name, read in (("p.parquet", pd.read_parquet), ("p.csv", pd.read_csv), ("p.jsonl", lines)):
        assert main(["predict", str(finished), "--data.source=digits", "--out", name]) == 0
        frame = read(name)
        assert frame["prediction"].astype(str).tolist() == expected.values.tolist()
        assert expected.probabilities is not None
        np.testing.assert_allclose(
            frame[[f"probability.{i}" for i in range(10)]].to_numpy(),
            expected.probabilities.numpy(),
            rtol=1e-12,
        )
        printed = capsys.readouterr().out
        assert printed.startswith(f"1,797 rows in {name}\nloss ")
    assert main(["evaluate", str(finished), "--data.source=digits"]) == 0
    assert capsys.readouterr().out == printed.split("\n", 1)[1]
    assert main(["runs", "--run.dir", str(finished.parent)]) == 0
    assert re.fullmatch(
        r"run  finished  train_loss \S+  eval_loss \S+  accuracy \S+  scaled-sgd predict .*/run --data.*\n",
        capsys.readouterr().out,
    )


def test_the_list_of_runs_has_r2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("{}")
    (tmp_path / "run/summary.json").write_text('{"status": "finished", "mse": 4.0, "r2": 0.75}')
    assert main(["runs", "--run.dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("run  finished  mse 4  r2 0.75  scaled-sgd predict ")


def lines(name: str) -> pd.DataFrame:
    return pd.read_json(name, lines=True, dtype=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "nothing", "--data.source=digits", "--out=p.csv"], "load_run: 'nothing' is no folder"),
        (["predict", "nothing", "--data.source=digits", "--out=p.txt"], "--out: 'p.txt' is not usable"),
        (["predict", "nothing", "--data.source=digits", "--out=x/p.csv"], "--out: 'x/p.csv' cannot be made"),
        (["export", "nothing", "--format=onnx", "--out=x/p.onnx"], "--out: 'x/p.onnx' cannot be made"),
        (["evaluate", "nothing"], "the following arguments are required: --data.source"),
        (["runs", "--run.dir=nothing"], "run.dir: no folder 'nothing'"),
    ],
)
def test_mistakes_of_the_commands_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


@pytest.mark.slow
def test_two_processes_of_shards_write_the_model_of_one(tmp_path: Path) -> None:
    arguments = (*SMALL, "--model.dtype=float64", "--run.device=cpu")
    for processes, strategies in ((1, ["ddp"]), (2, ["fsdp2", "tensor"])):
        (tmp_path / str(processes)).mkdir()
        runs = [(*arguments, f"--sharding.strategy={name}") for name in strategies]
        run_all(runs, processes, where=tmp_path / str(processes))
    one = load_run(tmp_path / "1/runs/run-0")
    for name in ("run-0", "run-1"):
        two = load_run(tmp_path / "2/runs" / name)
        for mine, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=1e-12, atol=1e-12)
        assert one.pipeline == two.pipeline


def stopping(_accelerator: Any) -> None:
    """Have the last process ended by a signal after step 3 of the coming run."""

    def stop(_self: Progress, step: int) -> None:
        if step == 3 and os.environ["RANK"] == "1":
            signal.raise_signal(signal.SIGTERM)

    setattr(Progress, "after_step", stop)  # noqa: B010


@pytest.mark.slow
def test_runs_of_shards_that_a_signal_stops_have_their_network_so_far(tmp_path: Path) -> None:
    strategies = ["fsdp2", "tensor", *(["zero3"] if find_spec("deepspeed") else [])]
    arguments = (*SMALL, "--run.device=cpu", "--scaling.rule=norm", "--optim.steps=1000000")
    runs = [(*arguments, f"--sharding.strategy={name}", f"--run.name={name}") for name in strategies]
    for name, run in zip(strategies, run_all(runs, 2, prepare=stopping, where=tmp_path), strict=True):
        folder = tmp_path / "runs" / name
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["status"], summary["strategy"]) == ("interrupted", name)
        model = load_run(folder)
        shutil.rmtree(folder / "model")
        checkpoint = load_run(folder)  # all that a killed run has
        for loaded in (model, checkpoint):
            for mine, theirs in zip(loaded.model.parameters(), run.weights, strict=True):
                assert torch.equal(mine, theirs)
        assert model.pipeline == checkpoint.pipeline
