"""The trainer in real processes, against the trainer in one."""

from functools import cache

import pytest
import torch
from accelerate import Accelerator

from scaled_sgd.train import accelerator
from scaled_sgd.train.main import main
from tests.programs import launch
from tests.training import figures, run_all

pytestmark = pytest.mark.slow

BASE = [
    "--scaling.rule=norm",
    "--model.depth=4", "--model.base_width=8", "--model.dtype=float64", "--optim.lr=1",
    "--optim.steps=7", "--run.log_every=1", "--run.eval_every=6",
]  # fmt: skip
VARIANTS = {
    "ragged": ["--optim.batch_size=479", "--scaling.rule=gain", "--loss=mse", "--optim.lr=0.5"],
    "tiny": ["--optim.batch_size=3", "--optim.lr=0.2"],
    "everything": [
        "--optim.batch_size=301", "--optim.accumulation=3", "--optim.momentum=0.9", "--optim.clip_norm=0.01",
        "--optim.weight_decay=0.001", "--optim.warmup_steps=3", "--optim.schedule=cosine",
        "--diagnostics.every=6", "--diagnostics.samples=30", "--diagnostics.k=3", "--diagnostics.chunk=128",
    ],
}  # fmt: skip


PRECISE = ("loss", "grad_norm", "scales", "eval_loss", "accuracy")


OF_FOUR = ("tiny",)
"""What is tried on four processes, too: elsewhere they do what two do, and ``make full`` has it."""


@cache
def trained(processes, *variants):
    """Figures of these variants."""
    found = run_all([(*BASE, *VARIANTS[name], "--sharding.strategy=ddp") for name in variants], processes)
    return {variant: figures(run.rows) for variant, run in zip(variants, found, strict=True)}


@pytest.mark.parametrize(
    ("variant", "processes"),
    [
        *((variant, 2) for variant in VARIANTS),
        *(pytest.param(name, 4, marks=() if name in OF_FOUR else pytest.mark.full) for name in VARIANTS),
    ],
)
def test_a_run_does_not_depend_on_the_number_of_processes(variant, processes):
    """1,437 samples, so the last minibatch of an epoch is ragged; of 3 rows, one of 4 ranks has none."""
    own = processes == 4 and variant in OF_FOUR
    one = trained(1, *VARIANTS)[variant]
    several = trained(processes, *(OF_FOUR if own else VARIANTS))[variant]
    assert one.keys() == several.keys()
    for (step, name), wanted in one.items():
        tolerance = 1e-12 if name in PRECISE else 1e-10
        torch.testing.assert_close(
            several[step, name], wanted, rtol=tolerance, atol=1e-12, msg=f"{name} at step {step}"
        )


ADAMW = ("--optim.optimizer=adamw", "--optim.lr=0.01", "--optim.weight_decay=0.1", "--optim.batch_size=479")


def test_adamw_on_rows_takes_the_steps_of_one_process():
    (alone,) = run_all([(*BASE, *ADAMW, "--sharding.strategy=ddp")], 1)
    (rows,) = run_all([(*BASE, *ADAMW, "--sharding.strategy=fsdp2")], 2)
    found, expected = figures(rows.rows), figures(alone.rows)
    for key, value in expected.items():
        if key[1] in PRECISE:
            torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-12)
    for W, V in zip(rows.weights, alone.weights, strict=True):
        torch.testing.assert_close(W, V, rtol=1e-9, atol=1e-9)


def test_the_cpu_launcher_that_starts_one_process_is_refused(tmp_path):
    started = launch(2, "--optim.steps=1", cwd=tmp_path, options=("--cpu",))
    assert started.returncode != 0
    lines = [line for line in started.stderr.splitlines() if line.startswith("error:")]
    assert lines == [
        "error: launch: several processes were asked for and one was started (accelerate launch --cpu does "
        "that); allowed: --config_file configs/accelerate/cpu.yaml, or --multi_gpu instead of --cpu"
    ]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--model.deph=3", "error: model.deph: unknown key; did you mean model.depth?"),
        pytest.param(
            "--data.source=none.csv",
            "error: data.source: no file or folder 'none.csv'",
            marks=pytest.mark.full,
        ),
        pytest.param("--run.metrics=[mse]", "error: run.metrics: ", marks=pytest.mark.full),
        pytest.param(
            "--run.processes=3",
            "error: run.processes: 3 were asked for, 2 run; allowed: a launcher that starts 3",
            marks=pytest.mark.full,
        ),
    ],
)
def test_only_one_rank_speaks_of_a_mistake(argument, expected, tmp_path):
    started = launch(2, argument, cwd=tmp_path)
    assert started.returncode != 0
    lines = [line for line in started.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert lines[0].startswith(expected)


@pytest.mark.usefixtures("fresh_world")
def test_a_single_torchrun_world_without_a_group_is_refused(monkeypatch, capsys):
    """A WORLD_SIZE that no process group backs: the trainer must not train alone."""
    alone = Accelerator(cpu=True)
    monkeypatch.setattr(accelerator, "Accelerator", lambda **_: alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["--optim.steps=1"]) == 2
    assert "launch: 2 processes were started but they see a world of 1" in capsys.readouterr().err
