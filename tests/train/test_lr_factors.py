"""``optim.lr_factors``: a rate that is changed in mid-run."""

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import load_data
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.study.small.engine import train as train_small
from scaled_sgd.train.main import main

pytestmark = pytest.mark.usefixtures("fresh_world")

PLAIN = (
    "--scaling.rule=none", "--optim.lr=0.25", "--model.depth=3", "--model.base_width=4",
    "--model.dtype=float64", "--optim.batch_size=300", "--optim.steps=8", "--optim.schedule=constant",
    "--optim.momentum=0.5", "--run.log_every=1", "--diagnostics.every=1", "--diagnostics.ranks=false",
)  # fmt: skip
CHANGED = (*PLAIN, "--optim.lr_factors=[[3, 0.5], [6, 2]]")
RATES = [0.25] * 3 + [0.125] * 3 + [0.5] * 2


def rows(folder):
    found = [row for row in read_metrics(f"{folder}/metrics.jsonl") if "loss" in row]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def train(name, *options):
    status = main([*options, f"--run.name={name}"])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert status == 0
    return rows(f"runs/{name}")


def test_steps_and_the_edge_take_the_new_rate_and_a_run_resumes_behind_the_change():
    whole = train("whole", *CHANGED, "--checkpoint.every_steps=4")
    assert [row["lr"] for row in whole] == RATES
    assert [row["edge"] for row in whole] == pytest.approx([2 * 1.5 / rate for rate in RATES])
    resumed = train("resumed", *CHANGED, "--run.resume=runs/whole/checkpoints/step-4")
    assert resumed == whole
    assert train("plain", *PLAIN)[:4] != whole[:4]


@pytest.mark.slow
def test_small_runs_alone_and_in_a_stack_take_the_same_steps():
    configs = [parse(CHANGED), parse(PLAIN)]
    folders = [Path(name) for name in ("alone", "first", "second")]
    for folder in folders:
        folder.mkdir()
    data = load_data(configs[0].data, seed=0)
    train_small(configs[:1], [data], folders[:1])
    train_small(configs, [data, data], folders[1:])
    losses = [row["loss"] for row in train("run", *CHANGED)]
    for folder in folders[:2]:
        assert [row["lr"] for row in rows(folder)] == RATES
        assert [row["loss"] for row in rows(folder)] == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (
            "--optim.lr_factors=[[4, 2], [3, 1]]",
            r"^optim\.lr_factors: .* a list of \[step, factor\] with steps that ascend",
        ),
        ("--optim.lr_factors=[[4, 0]]", r"^optim\.lr_factors: 0.0 .* finite numbers above 0"),
        ("--optim.schedule=edge", r"^optim\.lr_factors: .* allowed: \[\] with optim\.schedule edge"),
    ],
)
def test_what_is_no_change_of_a_known_rate_is_refused(option, line):
    with pytest.raises(UserError, match=line):
        parse([*CHANGED, option] if "factors" not in option else [*PLAIN, option])
