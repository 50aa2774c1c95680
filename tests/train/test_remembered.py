"""What a run remembers of its earlier steps, over checkpoints, too."""

import json
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.train.main import main
from scaled_sgd.train.snapshot import Progressed

pytestmark = pytest.mark.usefixtures("fresh_world")

WILD = (
    "--scaling.rule=norm",
    "--model.depth=3", "--model.base_width=4", "--model.dtype=float64", "--optim.lr=40", "--optim.steps=15",
    "--optim.schedule=constant", "--optim.batch_size=400", "--run.eval_every=0", "--checkpoint.keep=9",
    "--checkpoint.every_steps=5",
)  # fmt: skip
"""Losses rise and fall."""
OBSERVED = ("--diagnostics.every=7", "--diagnostics.samples=20", "--diagnostics.sharpness=false")


def run(name, *options):
    assert main([*WILD, f"--run.name={name}", *options]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(name)]
    return rows, json.loads(Path(f"runs/{name}/summary.json").read_text())


def rows_of(name):
    return list(read_metrics(f"runs/{name}/metrics.jsonl"))


@pytest.mark.parametrize("update", ["autograd", "fused"])
def test_the_largest_loss_is_that_of_all_steps_logged_or_not(update):
    fused = f"--optim.update={update}"
    every, summary = run("every", fused, "--run.log_every=1")
    few, of_few = run("few", fused, "--run.log_every=14")
    losses = [row["loss"] for row in every[:-1]]
    so_far = [max(losses[: step + 1]) for step in range(15)]
    assert [row["max_loss"] for row in every[:-1]] == so_far
    assert [row["max_loss"] for row in few[:-1]] == [so_far[0], so_far[14]]
    assert summary["max_loss"] == of_few["max_loss"] == max(losses) > max(losses[0], losses[14])


def test_a_resumed_run_remembers_its_largest_loss_and_its_first_preactivations():
    whole, summary = run("whole", *OBSERVED, "--run.log_every=14")
    resume = "--run.resume=runs/whole/checkpoints/step-10"
    resumed, of_resumed = run("resumed", *OBSERVED, "--run.log_every=14", resume)
    assert resumed == whole
    assert of_resumed["max_loss"] == summary["max_loss"]
    assert whole[0]["preactivation_change"] == [0.0, 0.0, 0.0]
    assert all(change > 0 for row in whole[1:-1] for change in row["preactivation_change"])


def test_a_checkpoint_of_an_earlier_version_continues_from_what_is_known(monkeypatch):
    """Those hold neither the largest loss nor the first preactivations."""
    as_dict, tensors = Progressed.as_dict, Observer.state_dict
    with monkeypatch.context() as earlier:
        earlier.setattr(
            Progressed, "as_dict", lambda self: {k: v for k, v in as_dict(self).items() if k != "max_loss"}
        )
        earlier.setattr(
            Observer,
            "state_dict",
            lambda self: {k: v for k, v in tensors(self).items() if not k.startswith("change.")},
        )
        whole, _ = run("whole", *OBSERVED, "--run.log_every=4")
    resumed, _ = run("resumed", *OBSERVED, "--run.log_every=4", "--run.resume=runs/whole/checkpoints/step-10")
    before = [row for row in whole if row["step"] < 10]
    assert resumed[: len(before)] == before
    after = resumed[len(before) : -1]
    known = max(row["max_loss"] for row in before)
    assert all(row["max_loss"] >= known for row in after)
    assert "preactivation_change" in before[0]
    assert not any("preactivation_change" in row for row in after)
