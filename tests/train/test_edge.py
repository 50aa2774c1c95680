"""``optim.schedule: edge``: the rate that keeps the directional edge ratio of the steps."""

from itertools import pairwise
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import load_data
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.study.small.batched import can_be_stacked
from scaled_sgd.study.small.engine import train as train_small
from scaled_sgd.train import session
from scaled_sgd.train.main import main

pytestmark = pytest.mark.usefixtures("fresh_world")

EDGE = (
    "--scaling.rule=norm", "--optim.lr=4",
    "--model.depth=4", "--model.base_width=4", "--model.dtype=float64", "--optim.batch_size=300",
    "--optim.steps=12", "--optim.schedule=edge", "--run.log_every=1", "--diagnostics.every=1",
    "--diagnostics.sharpness=false", "--diagnostics.ranks=false",
)  # fmt: skip


def train(name, *options):
    status = main([*EDGE, f"--run.name={name}", *options])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert status == 0
    return [
        {k: v for k, v in row.items() if k != "seconds"}
        for row in read_metrics(f"runs/{name}/metrics.jsonl")
        if "loss" in row
    ]


@pytest.mark.parametrize(
    "options", [(), ("--optim.momentum=0.5", "--optim.weight_decay=0.01"), ("--optim.clip_norm=0.1",)]
)
def test_every_rate_is_half_way_to_the_ratio_that_was_asked_for(options):
    rows = train("run", "--optim.edge_ratio=0.7", "--optim.edge_every=1", *options)
    known = 0
    for before, row in pairwise([{"lr": 4.0}, *rows]):
        ratio = row["directional_edge_ratio"]
        if ratio is None:
            assert row["lr"] == before["lr"]
        else:
            aim = row["lr"] * 0.7 / ratio
            assert row["lr"] == pytest.approx(min((before["lr"] * aim) ** 0.5, 2 * before["lr"]), rel=1e-9)
            known += 1
    assert known > 3


def test_the_rate_changes_every_so_many_steps_and_is_resumed():
    every = ("--optim.edge_every=4", "--checkpoint.every_steps=6")
    rows = train("whole", *every)
    rates = [row["lr"] for row in rows]
    assert len(set(rates)) == 3
    assert rates == [rate for rate in rates[::4] for _ in range(4)]
    assert train("resumed", *every, "--run.resume=runs/whole/checkpoints/step-6") == rows


def test_a_small_run_has_the_same_rates():
    config = parse(EDGE)
    Path("small").mkdir()
    train_small([config], [load_data(config.data, seed=0)], [Path("small")])
    small = [row["lr"] for row in read_metrics("small/metrics.jsonl") if "loss" in row]
    assert small == pytest.approx([row["lr"] for row in train("run")], rel=1e-9)
    assert not can_be_stacked(config)


def test_a_diagnostic_step_shares_the_signals_of_its_rate(monkeypatch):
    made = []
    monkeypatch.setattr(session, "Minibatch", lambda *a, **k: made.append(1) or Minibatch(*a, **k))
    config = parse([*EDGE, "--optim.edge_every=3", "--diagnostics.every=2"])
    Path("small").mkdir()
    train_small([config], [load_data(config.data, seed=0)], [Path("small")])
    assert len(made) == len({*range(0, 12, 3), *range(0, 12, 2)})


def test_an_optimizer_with_other_steps_has_no_edge():
    with pytest.raises(UserError, match=r"^optim\.schedule: 'edge' is not usable; allowed: constant, linear"):
        parse([*EDGE, "--optim.optimizer=adamw"])


DRIFT = (*EDGE, "--optim.schedule=drift_adjusted", "--optim.edge_every=1", "--optim.drift_power=0.5")


def test_drift_adjusted_rates_are_resumed_and_those_of_small_runs():
    rows = train("whole", *DRIFT, "--checkpoint.every_steps=6")
    rates = [row["lr"] for row in rows]
    assert len(set(rates)) == len(rates)
    assert all(after <= 2 * before for before, after in pairwise([4.0, *rates]))
    assert train("resumed", *DRIFT, "--run.resume=runs/whole/checkpoints/step-6") == rows
    config = parse(DRIFT)
    Path("small").mkdir()
    train_small([config], [load_data(config.data, seed=0)], [Path("small")])
    small = [row["lr"] for row in read_metrics("small/metrics.jsonl") if "loss" in row]
    assert small == pytest.approx(rates, rel=1e-9)
    assert not can_be_stacked(config)


def test_steps_of_matrices_have_no_drift():
    with pytest.raises(UserError, match=r"^optim\.schedule: 'drift_adjusted' is not usable; allowed: "):
        parse([*DRIFT, "--scaling.rule=spectral"])


ADAS = (
    *EDGE, "--optim.schedule=adas", "--optim.edge_every=2", "--optim.lr=1", "--optim.steps=8",
    "--diagnostics.quantities=[knowledge]",
)  # fmt: skip


def test_adas_rates_follow_the_knowledge_gain_and_are_resumed():
    rows = train("whole", *ADAS, "--checkpoint.every_steps=4")
    gains = [sum(row["knowledge_gain"]) / 4 for row in rows]
    rate = 1.0
    for step, row in enumerate(rows):
        if step % 2 == 0 and step:
            rate = max(0.8 * rate + gains[step] - gains[step - 2], 0)
        assert row["lr"] == pytest.approx(rate, rel=1e-12)
    assert train("resumed", *ADAS, "--run.resume=runs/whole/checkpoints/step-4") == rows
