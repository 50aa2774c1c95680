"""Exported networks give what the run predicts, from the numbers of the input columns."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open

from scaled_sgd import load_run
from scaled_sgd.cli import main
from scaled_sgd.runs.command import FORMATS
from scaled_sgd.runs.exporting import WRITERS

DRAW = np.random.default_rng(3)
ROWS = np.concatenate([1e3 * DRAW.normal(size=(6, 3)), np.zeros((1, 3))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on a table, of classes and of numbers."""
    place = tmp_path_factory.mktemp("exported")
    x = DRAW.normal(size=(40, 3)) * [1, 100, 1e4] + [0, 1e3, 1e6]
    table = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]})
    table.assign(kind=np.where(x[:, 0] > 0, "cat", "dog")).to_csv(place / "kinds.csv", index=False)
    table.assign(price=1e5 + 1e3 * x[:, 0]).to_csv(place / "prices.csv", index=False)
    for name, target in (("kinds", "kind"), ("prices", "price")):
        arguments = [f"--data.source={place}/{name}.csv", f"--data.target={target}", f"--run.name={name}"]
        more = ["--model.depth=3", "--model.base_width=3", "--optim.steps=3", "--model.dtype=float64"]
        where = [f"--run.dir={place}/runs", "--data.standardize=true", "--optim.lr=1"]
        assert main(["train", *arguments, *more, *where]) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
    return place


def export(folder: Path, name: str, kind: str) -> Path:
    out = folder / f"{name}.{kind}"
    assert main(["export", f"{folder}/runs/{name}", "--format", kind, "--out", str(out)]) == 0
    return out


def test_every_format_of_the_command_has_a_writer():
    assert set(WRITERS) == set(FORMATS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kinds", "prices"])
def test_a_program_gives_the_predictions_of_the_run(folder, name, capsys):
    path = export(folder, name, "pt2")
    assert "x (n, 3), float64 → outputs (n, " in capsys.readouterr().out
    facts = {"config.json": ""}
    program = torch.export.load(path, extra_files=facts).module()
    run = load_run(folder / "runs" / name)
    for rows in (ROWS, ROWS[:1]):
        outputs, more = program(torch.from_numpy(rows))
        found = run.predict(rows)
        assert not outputs.requires_grad
        torch.testing.assert_close(outputs, found.outputs, rtol=1e-6, atol=1e-6)
        theirs = found.probabilities if name == "kinds" else torch.from_numpy(found.values)[:, None]
        torch.testing.assert_close(more, theirs, rtol=1e-6, atol=1e-6)
    known = json.loads(facts["config.json"])
    assert known["pipeline"]["class_names"] == (["cat", "dog"] if name == "kinds" else None)
    assert known["widths"] == list(run.model.widths)


@pytest.mark.slow
def test_onnxruntime_gives_the_predictions_of_the_run(folder):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(export(folder, "kinds", "onnx"))
    assert [put.name for put in session.get_inputs()] == ["x"]
    assert [put.name for put in session.get_outputs()] == ["outputs", "probabilities"]
    found = load_run(folder / "runs/kinds").predict(ROWS)
    outputs, probabilities = session.run(None, {"x": ROWS})
    np.testing.assert_allclose(outputs, found.outputs, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(probabilities, found.probabilities, rtol=1e-5, atol=1e-7)
    known = json.loads(session.get_modelmeta().custom_metadata_map["config"])
    assert known["pipeline"]["inputs"] == ["a", "b", "c"]


def test_weights_have_plain_names_and_what_is_known_beside_them(folder):
    run = load_run(folder / "runs/kinds")
    with safe_open(export(folder, "kinds", "safetensors"), framework="pt") as file:
        assert {*file.keys()} == {"layers.0.weight", "layers.1.weight", "layers.2.weight"}
        for name, weight in run.model.state_dict().items():
            assert torch.equal(file.get_tensor(name), weight)
        assert json.loads(file.metadata()["config"])["loss"] == "cross_entropy"


def test_a_missing_package_names_the_extra(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", f"{folder}/runs/kinds", "--format=onnx", f"--out={folder}/no.onnx"]) == 2
    assert capsys.readouterr().err == (
        "error: format: 'onnx' needs onnxscript, which is not installed; allowed here: safetensors, pt2, or "
        "onnx after pip install 'scaled-sgd[export]'\n"
    )
    assert not (folder / "no.onnx").exists()
