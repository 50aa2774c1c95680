"""Small runs of a study against the trainer's."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from scaled_sgd import HomogeneousMLP
from scaled_sgd.config import DataConfig
from scaled_sgd.config.parsing import from_dict, parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import load_data
from scaled_sgd.parallel import Ranks
from scaled_sgd.study.small.engine import train, unsuited
from scaled_sgd.train.main import main
from scaled_sgd.train.samples import Samples
from tests.study.small_runs import left_in, same

pytestmark = pytest.mark.usefixtures("fresh_world")

SMALL = (
    "--scaling.rule=norm",
    "--model.depth=3", "--model.base_width=4", "--optim.lr=0.5", "--optim.steps=11", "--optim.batch_size=400",
    "--run.log_every=2", "--model.dtype=float64", "--diagnostics.every=4", "--diagnostics.samples=20",
    "--diagnostics.tolerance=1e-3", "--run.eval_every=5", "--run.seed=3",
)  # fmt: skip


def by_trainer(*options):
    status = main([*SMALL, "--run.name=trainer", *options])
    assert status in (0, 3)
    return left_in(Path("runs/trainer"))


def by_engine(*options):
    config = parse([*SMALL, *options])
    (summary,) = train([config], [load_data(config.data, seed=config.run.seed)], [Path("small/engine")])
    rows, written = left_in(Path("small/engine"))
    assert written == json.loads(json.dumps(summary))
    return rows, written


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--loss=mse", "--model.activation=abs", "--scaling.rule=gain", "--optim.schedule=cosine"),
        ("--scaling.rule=kernel", "--model.parameterization=sp", "--optim.lr=0.01", "--data.limit=900"),
        ("--scaling.rule=none", "--model.parameterization=mup", "--optim.warmup_steps=4"),
        ("--scaling.static=true", "--optim.momentum=0.8", "--optim.weight_decay=0.01"),
        ("--optim.clip_norm=0.02", "--model.parameterization=ntp", "--optim.accumulation=3"),
        ("--optim.normalize=true", "--scaling.rule=none", "--loss=mse", "--model.activation=[1,0.3]"),
        ("--model.activation=swish", "--loss=mse", "--optim.lr=1"),
        ("--optim.steps=null", "--optim.epochs=1.5", "--run.eval_every=null", "--diagnostics.chunk=64"),
        ("--run.precision=bf16", "--optim.update=fused", "--model.dtype=float32", "--optim.momentum=0.5"),
    ],
)  # fmt: skip
def test_a_small_run_has_the_numbers_of_the_trainers(options):
    (rows, summary), (ours, our_summary) = by_trainer(*options), by_engine(*options)
    for row, our in zip(rows, ours, strict=True):
        same(our, row)
    same(our_summary, summary)


@pytest.mark.parametrize(
    ("options", "layer"),
    [
        (("--optim.lr=1e200", "--run.log_every=1"), 2),
        (("--optim.lr=1e150", "--run.log_every=7", "--loss=mse"), None),
        (("--optim.lr=1e30", "--model.dtype=float32", "--diagnostics.every=0"), 2),
        (("--optim.lr=1e120", "--model.activation=abs"), 2),
        (("--optim.lr=1e150", "--model.activation=[0.9, 0.4]", "--loss=mse"), None),
        (("--optim.lr=1e30", "--model.dtype=float32", "--diagnostics.every=0", "--model.activation=abs"), 2),
    ],
)
def test_a_run_that_blows_up_ends_at_the_step_and_layer_of_the_trainers(options, layer):
    plain = ("--scaling.rule=none", "--run.eval_every=0", "--diagnostics.sharpness=false", *options)
    (rows, summary), (ours, our_summary) = by_trainer(*plain), by_engine(*plain)
    assert summary["status"] == our_summary["status"] == "diverged"
    assert (our_summary["step"], our_summary["layer"]) == (summary["step"], summary["layer"])
    assert our_summary["max_loss"] is our_summary["train_loss"] is None
    assert our_summary["initial_loss"] == ours[0]["loss"]
    for our, row in zip(ours, rows, strict=False):
        same(our, row, rel=1e-6 if "--model.dtype=float32" in options else 1e-12)
    assert [row["step"] for row in ours] == [row["step"] for row in rows if row["step"] <= summary["step"]]


def test_the_largest_loss_is_that_of_all_steps_logged_or_not():
    options = ("--optim.lr=40", "--optim.schedule=constant", "--diagnostics.every=0", "--run.eval_every=0")
    every, _ = by_engine(*options, "--run.log_every=1")
    few, summary = by_engine(*options, "--run.log_every=1000")
    losses = [row["loss"] for row in every if "loss" in row]
    assert len(few) == 2
    assert summary["max_loss"] == max(losses) > losses[0]
    assert summary["initial_loss"] == losses[0]


def test_preactivations_change_by_what_the_steps_move_the_weights():
    """Of a single layer, z = α x Wᵀ; its weights after a step by autograd."""
    options = (
        "--model.depth=1",
        "--loss=mse",
        "--diagnostics.every=1",
        "--optim.steps=2",
        "--scaling.rule=none",
    )
    rows, _ = by_engine(*options)
    config = parse([*SMALL, *options])
    data = load_data(config.data, seed=3)
    samples = Samples(data, config, torch.device("cpu"))
    model = HomogeneousMLP(64, 10, depth=1, base_width=4, seed=3, dtype=torch.float64)
    x, _ = samples.probe(Ranks.alone())
    batch = next(samples.train.batches(batch_size=400, seed=3, epoch=0))
    before = model(x)
    inputs, targets = batch.own()
    (G,) = torch.autograd.grad((model(inputs) - targets).square().sum() / 800, model.parameters())
    moved = model.layers[0].multiplier * 0.5 * (x @ G.T)
    expected = (moved.norm() / before.norm()).item()
    assert [row["preactivation_change"] for row in rows[:2]] == [[0.0], [pytest.approx(expected, rel=1e-12)]]


def test_a_folder_left_by_a_killed_run_is_begun_anew():
    rows, summary = by_engine()
    folder = Path("small/engine")
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4}\n{"st')
    again, summary_again = by_engine()
    assert len(again) == len(rows)
    for row, other in zip(again, rows, strict=True):
        same(row, other, rel=0)
    same(summary_again, summary, rel=0)


def test_the_folder_holds_the_configuration_as_resolved():
    by_engine("--optim.steps=null", "--optim.epochs=1")
    config = yaml.safe_load(Path("small/engine/config.yaml").read_text())
    assert config["optim"]["steps"] == 4
    assert (config["run"]["name"], config["run"]["dir"]) == ("engine", "small")
    assert from_dict(config).model == parse(SMALL).model


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--data={source: s, streaming: true, eval_split: t}", "data.streaming: True is for the trainer; "
         "allowed in a small run: false"),
        ("--run.trackers=[tensorboard]", "run.trackers: ['tensorboard'] is for the trainer; "
         "allowed in a small run: none"),
        ("--run.metrics=[f1]", "run.metrics: ['f1'] is for the trainer; "
         "allowed in a small run: accuracy, mse, r2"),
        ("--checkpoint.every_steps=5", "checkpoint.every_steps: 5 is for the trainer; "
         "allowed in a small run: null"),
        ("--sharding.strategy=fsdp2", "sharding.strategy: 'fsdp2' is for the trainer; "
         "allowed in a small run: auto, ddp"),
        ("--run.precision=bf16", "run.precision: 'bf16' by autograd is for the trainer; "
         "allowed in a small run: optim.update fused"),
    ],
)  # fmt: skip
def test_what_the_trainer_has_to_do_is_said_in_a_line(option, line):
    config = parse([*SMALL, "--model.dtype=float32", option])
    assert unsuited(config) == line
    with pytest.raises(UserError, match=re.escape(line)):
        train([config], [load_data(DataConfig(), seed=3)], [Path("small/engine")])
    assert not Path("small").exists()


def test_the_defaults_suit():
    assert unsuited(parse([])) is None
