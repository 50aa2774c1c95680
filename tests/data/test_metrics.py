import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scaled_sgd.core.errors import UserError
from scaled_sgd.data.metrics import load_metrics

ALLOWED = "allowed: accuracy, mse, r2, a local script or a module on the hub"
SCRIPT = """\
import datasets
import evaluate


class {name}(evaluate.Metric):
    def _info(self):
        value = datasets.Value("int64")
        features = datasets.Features({{"predictions": value, "references": value}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {result}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    return cache


def script(folder: Path, name: str, result: str) -> str:
    path = folder / f"{name.lower()}.py"
    path.write_text(SCRIPT.format(name=name, result=result))
    return str(path)


def test_accuracy_takes_outputs_or_ids() -> None:
    from sklearn.metrics import accuracy_score

    torch.manual_seed(0)
    outputs, y = torch.randn(200, 5), torch.randint(0, 5, (200,))
    metrics = load_metrics(["accuracy"], "classification")
    expected = {"accuracy": pytest.approx(accuracy_score(y, outputs.argmax(1)))}
    assert metrics.compute(outputs, y) == expected
    assert metrics.compute(outputs.argmax(1), y) == expected
    assert metrics.compute(outputs.bfloat16().requires_grad_(), y).keys() == {"accuracy"}


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3)])
def test_mse_is_the_mean_over_samples_and_entries(shape: tuple[int, ...]) -> None:
    from sklearn.metrics import mean_squared_error

    torch.manual_seed(0)
    f, y = torch.randn(shape), torch.randn(shape)
    found = load_metrics(["mse"], "regression").compute(f, y)
    assert found == {"mse": pytest.approx(mean_squared_error(y, f), rel=1e-6)}


@pytest.mark.slow
def test_results_are_the_same_without_evaluate() -> None:
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'evaluate' else find(name, *a)\n"
        "import torch; from scaled_sgd.data.metrics import load_metrics\n"
        "ids = torch.tensor([0, 1, 2, 0])\n"
        "print(load_metrics(['accuracy'], 'classification').compute(torch.eye(4), ids))\n"
        "print(load_metrics(['mse'], 'regression').compute(torch.ones(2, 2), torch.zeros(2, 2)))\n"
        "try: load_metrics(['f1'], 'classification')\n"
        "except ValueError as error: print(error)\n"
        "assert 'evaluate' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "{'accuracy': 0.75}",
        "{'mse': 1.0}",
        "run.metrics: 'f1' needs the package 'evaluate'; allowed without it: accuracy, mse, r2",
    ]


def test_the_built_in_metrics_need_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "file" / "metrics"))
    ids = torch.tensor([0, 1, 2, 0])
    assert load_metrics(["accuracy"], "classification").compute(torch.eye(4), ids) == {"accuracy": 0.75}


def test_the_built_in_metrics_are_evaluate_modules() -> None:
    import evaluate

    from scaled_sgd.data.metrics.modules import Accuracy, MeanSquaredError

    assert issubclass(Accuracy, evaluate.Metric)
    assert issubclass(MeanSquaredError, evaluate.Metric)
    combined = evaluate.combine([Accuracy(keep_in_memory=True)])
    assert combined.compute(predictions=[0, 1], references=[0, 0]) == {"accuracy": 0.5}


def test_nothing_is_written_to_shared_files(own_cache: Path) -> None:
    metrics = [load_metrics(["accuracy"], "classification") for _ in range(2)]
    for each in (*metrics, *metrics):
        each.compute(torch.arange(10), torch.arange(10))
    assert [path for path in own_cache.rglob("*") if path.is_file()] == []


def test_a_local_script_is_a_metric(tmp_path: Path) -> None:
    path = script(tmp_path, "Agreeing", '{"agreeing": sum(p == r for p, r in zip(predictions, references))}')
    found = load_metrics(["accuracy", path], "classification").compute(
        torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])
    )
    assert found == {"accuracy": pytest.approx(2 / 3), "agreeing": 2.0}


def test_figures_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    metrics = load_metrics([script(tmp_path, "Several", '{"several": [1, 2]}')], "classification")
    with pytest.raises(UserError, match="gives several; allowed: single numbers"):
        metrics.compute(torch.tensor([0, 1]), torch.tensor([0, 1]))


def test_data_that_a_metric_does_not_accept_is_refused() -> None:
    with pytest.raises(UserError, match=r"run\.metrics: 'accuracy' does not accept this data"):
        load_metrics(["accuracy"], "classification").compute(torch.zeros(3).long(), torch.zeros(4).long())


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("mse", "classification", "'mse' is for regression; allowed: metrics of classification"),
        ("accuracy", "regression", "'accuracy' is for classification; allowed: metrics of regression"),
        ("./gone.py", "regression", f"no script './gone.py'; {ALLOWED}"),
        ("someone/gone.py", "regression", f"no script 'someone/gone.py'; {ALLOWED}"),
    ],
)
def test_wrong_names_are_refused(name: str, task: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_metrics([name], task)  # type: ignore[arg-type]
    assert str(caught.value) == f"run.metrics: {message}"


def test_a_broken_script_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import gone_for_good\n")
    with pytest.raises(UserError, match=r"run\.metrics: cannot load"):
        load_metrics([str(tmp_path / "broken.py")], "classification")


def test_an_unreachable_hub_is_told() -> None:
    import evaluate

    with pytest.raises(
        UserError, match=r"run\.metrics: cannot reach the Hugging Face hub for 'f1'; allowed without"
    ):
        load_metrics(["f1"], "classification")
    assert not evaluate.config.HF_EVALUATE_OFFLINE


def test_half_of_the_training_loss_per_entry_is_not_this_mse() -> None:
    f, y = np.ones((2, 4)), np.zeros((2, 4))
    found = load_metrics(["mse"], "regression").compute(torch.from_numpy(f), torch.from_numpy(y))
    assert found["mse"] * 4 / 2 == 0.5 * ((f - y) ** 2).sum(1).mean()
