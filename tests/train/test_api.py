"""Training from Python, and a plain command on a table, end in a network as good as other tools'."""

from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

from scaled_sgd import load_run
from scaled_sgd.cli import main
from scaled_sgd.config import Config, ModelConfig, OptimConfig, RunConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.train import train

pytestmark = pytest.mark.usefixtures("fresh_world")

SMALL = {"depth": 3, "base_width": 4}


def houses(n: int) -> pd.DataFrame:
    """Prices around 1e5 from columns of scales 1 to 1e4, one constant, one text, with gaps."""
    from benchmarks import tables

    return tables.houses(n).rename(columns={"target": "price"})


@pytest.mark.slow
def test_data_in_memory_train_and_are_predicted_in_their_unit() -> None:
    from sklearn.metrics import r2_score

    rows = houses(400)
    config = {"data": {"target": "price"}, "model": SMALL, "optim": {"steps": 60}, "run": {"name": "h"}}
    run = train(config, data=rows)
    predicted = run.predict(rows).values
    figures = run.evaluate(rows)
    assert figures["r2"] == pytest.approx(r2_score(rows["price"], predicted), rel=1e-6)
    assert figures["mse"] == pytest.approx(np.mean((predicted - rows["price"]) ** 2), rel=1e-5)
    assert figures["r2"] > 0.4
    assert figures["loss"] == pytest.approx(
        figures["mse"] / 2 / run.pipeline.scale.deviations[0] ** 2, rel=1e-5
    )
    *_, last = read_metrics(Path("runs/h/metrics.jsonl"))
    assert set(last) >= {
        "step",
        "epoch",
        "samples",
        "train_loss",
        "max_loss",
        "eval_loss",
        "mse",
        "r2",
        "seconds",
    }
    assert (last["step"], last["samples"]) == (60, 60 // 2 * 320)
    assert load_run("runs/h").evaluate(rows) == figures
    assert main(["train", "--config=runs/h/config.yaml", "--run.resume=auto"]) == 2


def test_a_configuration_with_its_defaults_trains() -> None:
    config = Config(model=ModelConfig(**SMALL), optim=OptimConfig(steps=2), run=RunConfig(name="typed"))
    assert config.scaling.rule == "auto"
    assert train(config).config["configuration"]["scaling"]["rule"] == "spectral"


def test_a_run_that_was_refused_is_free_for_the_next_call() -> None:
    """In a notebook, which keeps the error, and with it all that was made before."""
    config = {"model": SMALL, "optim": {"steps": 2}, "run": {"name": "r"}}
    train(config)
    again = {"run": {"resume": "runs/r"}, "optim": {"steps": 4}}
    with pytest.raises(UserError, match=r"^optim\.steps: 4 differs"):
        train(again)
    damaged = Path("runs/damaged/checkpoints/step-1")
    damaged.mkdir(parents=True)
    (damaged.parents[1] / "config.yaml").write_text(Path("runs/r/config.yaml").read_text())
    for _ in range(2):
        with pytest.raises(UserError, match="no intact checkpoint"):
            train({"run": {"resume": "runs/damaged"}})
    again["run"]["accept_changes"] = ["optim.steps"]
    train(again)
    *_, last = read_metrics(Path("runs/r/metrics.jsonl"))
    assert last["step"] == 4


def test_a_bunch_of_scikit_learn_has_its_names() -> None:
    from sklearn.datasets import load_iris

    run = train({"model": SMALL, "optim": {"steps": 60}}, data=load_iris())
    assert run.classes == ("setosa", "versicolor", "virginica")
    assert (
        np.mean(run.predict(load_iris().data).values == load_iris().target_names[load_iris().target]) > 0.85
    )


def test_a_source_beside_data_in_memory_is_refused() -> None:
    with pytest.raises(UserError, match=r"^data: a source beside data in memory; allowed: one of the two"):
        train({"data": {"source": "digits"}}, data=houses(9))


@pytest.mark.slow
def test_a_small_network_is_as_good_as_other_tools_on_a_small_table() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.model_selection import train_test_split

    train_rows, test_rows = train_test_split(houses(1500), test_size=0.25, random_state=0)
    data = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_pandas(rows, preserve_index=False)
            for name, rows in (("train", train_rows), ("test", test_rows))
        }
    )
    run = train({"data": {"target": "price"}, "model": {"depth": 4, "base_width": 8}}, data=data)
    x, z = (
        rows.drop(columns=["shore", "price"]).assign(ocean=rows["shore"] == "ocean")
        for rows in (train_rows, test_rows)
    )
    trees = HistGradientBoostingRegressor(random_state=0).fit(x, train_rows["price"])
    assert run.evaluate(test_rows)["r2"] > trees.score(z, test_rows["price"]) - 0.01
    assert run.evaluate(test_rows)["r2"] > 0.93


@pytest.mark.slow
@pytest.mark.full
def test_a_plain_command_is_as_good_as_other_tools_on_a_table(tmp_path: Path) -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows = houses(4000)
    rows.to_csv("houses.csv", index=False)
    assert main(["train", "--data.source=houses.csv", "--data.target=price", "--run.name=h"]) == 0
    *_, last = read_metrics(Path("runs/h/metrics.jsonl"))
    numbers = rows.drop(columns=["shore", "price"]).assign(ocean=rows["shore"] == "ocean")
    half = len(rows) // 5
    best = HistGradientBoostingRegressor().fit(numbers[half:], rows["price"][half:])
    assert last["r2"] > best.score(numbers[:half], rows["price"][:half]) - 0.01
