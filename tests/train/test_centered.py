"""``model.centered`` and ``model.output_scale`` in runs: trainer, small runs, what is stored of them."""

import math
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from scaled_sgd import load_run
from scaled_sgd.cli import main as command
from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import load_data
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.study.small.engine import train as train_small
from scaled_sgd.train.main import main

pytestmark = pytest.mark.usefixtures("fresh_world")

SMALL = (
    "--model.depth=3", "--model.base_width=4", "--model.dtype=float64", "--optim.batch_size=500",
    "--optim.steps=6", "--optim.schedule=constant", "--run.log_every=1", "--scaling.rule=none",
    "--model.parameterization=ntp", "--model.centered=true", "--model.output_scale=0.5", "--optim.lr=0.2",
    "--checkpoint.every_steps=3", "--diagnostics.every=3", "--diagnostics.samples=30",
)  # fmt: skip


def train(name, *options):
    status = main([*SMALL, f"--run.name={name}", *options])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert status == 0
    return [
        {k: v for k, v in r.items() if k != "seconds"} for r in read_metrics(f"runs/{name}/metrics.jsonl")
    ]


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_run_starts_at_0_and_is_stored_with_its_start(loss, tmp_path):
    options = (f"--loss={loss}", f"--optim.lr={0.2 if loss == 'cross_entropy' else 0.02}")
    rows = train("run", *options)
    start = math.log(10) if loss == "cross_entropy" else 0.5
    assert rows[0]["loss"] == pytest.approx(start, abs=1e-12)
    assert rows[-1]["eval_loss"] < start
    assert train("resumed", *options, "--run.resume=runs/run/checkpoints/step-3") == rows
    small = tmp_path / "small"
    small.mkdir()
    config = parse([*SMALL, *options, "--checkpoint.every_steps=null"])
    train_small([config], [load_data(config.data, seed=0)], [small])
    for found, row in zip(read_metrics(small / "metrics.jsonl"), rows, strict=True):
        for name in row.keys() & {"loss", "eval_loss", "accuracy", "sharpness"}:
            assert found[name] == pytest.approx(row[name], rel=1e-7), name
    run = load_run("runs/run")
    x = load_data(config.data, seed=0).evaluation.x[:5].double()
    stored, early = run.model(x), load_run("runs/run/checkpoints/step-6").model
    assert run.model.centered
    torch.testing.assert_close(early(x), stored)


@pytest.mark.slow
def test_an_exported_network_starts_at_0_too():
    train("run", "--diagnostics.every=0")
    run = load_run("runs/run")
    assert command(["export", "runs/run", "--format", "pt2", "--out", "out.pt2"]) == 0
    rows_in = torch.rand(4, 64, dtype=torch.float64)
    outputs = torch.export.load(Path("out.pt2")).module()(rows_in)[0]
    torch.testing.assert_close(outputs, run.predict(rows_in.numpy()).outputs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("rule", "power"), [("none", 2), ("norm", 1), ("spectral", 1)])
def test_lazy_networks_follow_one_path_at_rates_like_a_power_of_their_scale(rule, power):
    losses = []
    for i, scale in enumerate((1e-4, 1e-3)):
        options = (f"--model.output_scale={scale}", f"--optim.lr={scale**power}", f"--scaling.rule={rule}")
        losses.append([row["loss"] for row in train(f"s{i}", *options)[:6]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert losses[0][-1] < 0.99 * losses[0][0]


def test_a_stream_has_no_start_to_subtract():
    with pytest.raises(
        UserError, match=r"^model\.centered: true is not usable; allowed: false with data\.str"
    ):
        parse(["--data.source=x.csv", "--data.streaming=true", "--optim.steps=2", "--data.eval_split=test",
               "--model.centered=true"])  # fmt: skip
