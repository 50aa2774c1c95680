"""``model.rank`` in runs: trainer, small runs, stacks, what is stored of them, and what is refused."""

import itertools
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from scaled_sgd import load_run
from scaled_sgd.cli import main as command
from scaled_sgd.config.network import factored_of
from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import load_data
from scaled_sgd.planning import Workload, nominal, predict
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.study.small.engine import train as train_small
from scaled_sgd.train.main import main

pytestmark = pytest.mark.usefixtures("fresh_world")

SMALL = (
    "--model.depth=3", "--model.base_width=6", "--model.dtype=float64", "--optim.batch_size=500",
    "--optim.steps=6", "--run.log_every=1", "--scaling.rule=norm", "--optim.lr=1", "--optim.momentum=0.5",
    "--model.rank=4", "--optim.frobenius_decay=0.02", "--checkpoint.every_steps=3", "--diagnostics.every=3",
    "--diagnostics.samples=30",
)  # fmt: skip


def train(name, *options):
    status = main([*SMALL, f"--run.name={name}", *options])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert status == 0
    return [
        {k: v for k, v in r.items() if k != "seconds"} for r in read_metrics(f"runs/{name}/metrics.jsonl")
    ]


@pytest.mark.slow
def test_a_factorised_run_resumes_and_is_stored_with_its_factors():
    rows = train("run")
    assert len(rows[0]["scales"]) == 5
    # A coming step with this decay is not −ηv of the loss.
    assert rows[0]["edge_ratio"] is None
    assert train("resumed", "--run.resume=runs/run/checkpoints/step-3") == rows
    run = load_run("runs/run")
    x = load_data(parse([]).data, seed=0).evaluation.x[:5].double()
    early = load_run("runs/run/checkpoints/step-6").model
    assert run.model.widths == early.widths == (64, 4, 6, 4, 24, 10)
    torch.testing.assert_close(early(x), run.model(x))
    assert command(["export", "runs/run", "--format", "pt2", "--out", "out.pt2"]) == 0
    rows_in = torch.rand(4, 64, dtype=torch.float64)
    outputs = torch.export.load(Path("out.pt2")).module()(rows_in)[0]
    torch.testing.assert_close(outputs, run.predict(rows_in.numpy()).outputs, rtol=1e-6, atol=1e-6)


def test_trainer_small_runs_and_stacks_take_the_same_steps(tmp_path):
    rows = train("run")
    configs = [
        parse([*SMALL, "--checkpoint.every_steps=null", f"--optim.frobenius_decay={decay}"])
        for decay in (0.02, 0.0)
    ]
    folders = [tmp_path / name for name in ("alone", "first", "second")]
    for folder in folders:
        folder.mkdir()
    data = load_data(configs[0].data, seed=0)
    train_small(configs[:1], [data], folders[:1])
    train_small(configs, [data, data], folders[1:])
    for folder in folders[:2]:
        for found, row in zip(read_metrics(folder / "metrics.jsonl"), rows, strict=True):
            for name in row.keys() & {"loss", "eval_loss", "accuracy", "sharpness"}:
                assert found[name] == pytest.approx(row[name], rel=1e-7), name


@pytest.mark.parametrize("decay", ["--optim.weight_decay=0.02", "--optim.clip_norm=0.5"])
def test_fused_steps_and_autograd_agree_on_factors(decay):
    options = ("--optim.frobenius_decay=0", decay, "--diagnostics.every=0", "--checkpoint.every_steps=null")
    fused, autograd = (
        train(update, *options, f"--optim.update={update}") for update in ("fused", "autograd")
    )
    for found, row in zip(fused, autograd, strict=True):
        for name in row.keys() & {"loss", "eval_loss"}:
            assert found[name] == pytest.approx(row[name], rel=1e-12)


FROBENIUS = ("--model.rank=2", "--optim.frobenius_decay=1")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--optim.frobenius_decay=0.1"], "optim.frobenius_decay: 0.1 .* allowed: 0.0 with model.rank null"),
        (["--model.factor_start=drawn"], "model.factor_start: 'drawn' .* allowed: spectral with model.rank"),
        (["--model.rank=2", "--optim.clip_norm=1", "--optim.clip_layers=[1]"], "optim.clip_layers: .* last"),
        ([*FROBENIUS, "--optim.accumulation=2"], "optim.accumulation: 2 is"),
        ([*FROBENIUS, "--optim.optimizer=adamw"], "optim.optimizer: 'adamw'"),
        ([*FROBENIUS, "--optim.schedule=edge"], "optim.schedule: 'edge' is"),
        ([*FROBENIUS, "--sharding.strategy=zero2"], "sharding.strategy: 'zero"),
    ],
)  # fmt: skip
def test_what_factors_cannot_is_refused_in_one_line(options, line):
    with pytest.raises(UserError, match=line):
        parse(options)


def test_a_rank_that_no_layer_holds_is_refused_once_the_data_are_known():
    with pytest.raises(UserError, match=r"^model\.rank: 25 is above .*; allowed: 1 to 24$"):
        factored_of(parse(["--model.rank=25", "--model.base_width=6", "--model.depth=4"]).model, 64, 10)


def test_the_planner_counts_factors():
    plain, factored, decayed = (
        predict(
            "ddp",
            Workload.of(parse(["--model.base_width=100", "--scaling.rule=none", *options]), 784, 10),
            nominal("cpu"),
            fused=True,
        )
        for options in ([], ["--model.rank=5"], ["--model.rank=5", "--optim.frobenius_decay=0.1"])
    )
    widths = (784, 100, 400, 900, 1600, 2500)
    assert plain.held_bytes == 4 * (sum(a * b for a, b in itertools.pairwise(widths)) + 25_000)
    assert factored.held_bytes == 4 * (5 * sum(a + b for a, b in itertools.pairwise(widths)) + 25_000)
    # Five pairs of Gram matrices, and what is added to the largest factor.
    assert decayed.peak_bytes - factored.peak_bytes == 4 * (5 * 2 * 25 + 5 * 2500)
