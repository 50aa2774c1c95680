"""Sharpness as AdamW's steps meet it, in whole runs, against dense matrices from checkpoints."""

from pathlib import Path

import pytest
import torch

from scaled_sgd.config.parsing import parse
from scaled_sgd.data import load_data
from scaled_sgd.parallel import Ranks
from scaled_sgd.runs.checkpoint import open_checkpoint
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.runs.trained import load_run
from scaled_sgd.study.small.engine import train
from scaled_sgd.train.main import main
from scaled_sgd.train.samples import Samples
from tests.oracles import Problem, full_hessian, gradients, to_flat
from tests.training import run_all

pytestmark = pytest.mark.usefixtures("fresh_world")

LR, DECAY, BETA, STEP = 0.01, 0.1, (0.8, 0.99), 3
ADAMW = (
    "--scaling.rule=none", "--optim.optimizer=adamw", f"--optim.lr={LR}", f"--optim.weight_decay={DECAY}",
    f"--optim.options={{betas: [{BETA[0]}, {BETA[1]}]}}", "--optim.schedule=constant", "--loss=mse",
    "--optim.batch_size=40", "--diagnostics.samples=40", "--data.limit=40", "--optim.steps=5",
    "--model.depth=3", "--model.base_width=2", "--model.dtype=float64", f"--diagnostics.every={STEP}",
    "--diagnostics.quantities=[adam_sharpness]", "--diagnostics.tolerance=1e-9", "--run.log_every=1",
)  # fmt: skip
STORED = (*ADAMW, f"--checkpoint.keep_steps=[{STEP}]")


def dense(folder: Path) -> float:
    """λ_max(P^{−1/2} H P^{−1/2}) from the weights and second moments of the checkpoint before the step."""
    config = parse(ADAMW)
    data = load_data(config.data, seed=0, quiet=True)
    x, y = Samples(data, config, torch.device("cpu")).probe(Ranks.alone())
    place = folder / f"checkpoints/step-{STEP}"
    p = Problem(load_run(place).model, x, y, "mse")
    stored = open_checkpoint(place)
    squares = [
        stored.read(f"mean_square.{k}", 0, w.numel()) for k, w in enumerate(p.model.parameters(), start=1)
    ]
    g, t = to_flat(gradients(p)), STEP + 1
    nu = BETA[1] * to_flat(squares) + (1 - BETA[1]) * g.square()
    P = (1 - BETA[0] ** t) * ((nu / (1 - BETA[1] ** t)).sqrt() + 1e-8)
    return float(torch.linalg.eigvalsh(full_hessian(p) / (P[:, None] * P).sqrt())[-1])


def measured(folder: Path) -> dict[str, float]:
    (row,) = (
        row for row in read_metrics(folder / "metrics.jsonl") if row["step"] == STEP and "adam_edge" in row
    )
    return row


def test_the_column_of_a_run_is_that_of_its_checkpoint(tmp_path: Path) -> None:
    assert main([*STORED, "--run.name=run"]) == 0
    row = measured(Path("runs/run"))
    assert row["adam_sharpness"] == pytest.approx(dense(Path("runs/run")), rel=1e-8)
    assert row["adam_edge"] == pytest.approx(1.8 * (2 - LR * DECAY) / (0.2 * LR), rel=1e-12)
    assert row["adam_edge_ratio"] == pytest.approx(row["adam_sharpness"] / row["adam_edge"], rel=1e-12)
    small = tmp_path / "small"
    small.mkdir()
    config = parse(ADAMW)
    train([config], [load_data(config.data, seed=0, quiet=True)], [small])
    assert measured(small)["adam_sharpness"] == pytest.approx(row["adam_sharpness"], rel=1e-8)


@pytest.mark.slow
def test_two_processes_have_the_column_of_one(tmp_path: Path) -> None:
    strategies = ("ddp", "fsdp2")
    run_all([(*STORED, f"--sharding.strategy={name}") for name in strategies], 2, where=tmp_path)
    for i in range(len(strategies)):
        (folder,) = tmp_path.glob(f"**/run-{i}")
        assert measured(folder)["adam_sharpness"] == pytest.approx(dense(folder), rel=1e-8)
