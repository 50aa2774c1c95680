"""Rates relative to the sharpness at the start."""

from pathlib import Path

import pytest
import torch

from scaled_sgd.config.parsing import from_dict
from scaled_sgd.data import load_data
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.parallel import Ranks
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.steps.scales import resolve_scales
from scaled_sgd.study.small.engine import train
from scaled_sgd.study.small.session import small_session
from scaled_sgd.train.main import main
from tests.oracles import Problem, full_hessian

pytestmark = pytest.mark.usefixtures("fresh_world")

VALUES = {
    "loss": "mse",
    "model": {"depth": 3, "base_width": 2, "dtype": "float64"},
    "scaling": {"rule": "norm"},
    "optim": {"steps": 4, "lr_in_edges": 0.5, "schedule": "constant"},
    "diagnostics": {"samples": 12},
    "run": {"log_every": 1},
}
SMALL = [
    "--loss=mse", "--model.depth=3", "--model.base_width=2", "--model.dtype=float64", "--scaling.rule=norm",
    "--optim.steps=4", "--optim.schedule=constant", "--diagnostics.samples=12", "--run.log_every=1",
]  # fmt: skip


def rates(folder: str) -> list[float]:
    return [row["lr"] for row in read_metrics(Path(folder) / "metrics.jsonl") if "lr" in row]


@pytest.mark.parametrize("rule", ["none", "norm"])
def test_the_unit_is_that_of_the_dense_preconditioned_hessian_on_the_probe(rule: str) -> None:
    config = from_dict(VALUES | {"scaling": {"rule": rule}})
    session = small_session(config, load_data(config.data, seed=0, quiet=True))
    network, (x, y) = session.strategy.network, session.samples.probe(Ranks.alone())
    assert len(x) == 12
    xi = resolve_scales(None if rule == "none" else rule, Minibatch(network, x, y, loss="mse"))
    top = torch.linalg.eigvalsh(full_hessian(Problem(network, x, y, "mse"), xi))[-1]
    assert session.schedule(0) == pytest.approx(0.5 * 2 / float(top), rel=1e-9)


def test_every_kind_of_run_takes_it_and_a_resumed_one_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    whole = [*SMALL, "--optim.lr_in_edges=0.5", "--checkpoint.keep_steps=[2]"]
    assert main([*whole, "--run.name=a"]) == 0
    assert "optim.lr_in_edges: the rate is " in capsys.readouterr().err
    (rate,) = set(rates("runs/a"))
    configs = [from_dict(VALUES | {"optim": VALUES["optim"] | {"lr_in_edges": e}}) for e in (0.5, 1.5)]
    data = load_data(configs[0].data, seed=0, quiet=True)
    folders = [Path(name) for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    train(configs, [data, data], folders)
    assert rates("one")[0] == pytest.approx(rate, rel=1e-12)
    assert rates("other")[0] == pytest.approx(3 * rate, rel=1e-12)
    resumed = [*whole, "--run.resume=runs/a/checkpoints/step-2"]
    assert main([*resumed, "--run.name=b"]) == 0
    assert set(rates("runs/b")) == {rate}
    changed = [*resumed, "--optim.lr_in_edges=1", "--run.accept_changes=[optim.lr_in_edges]"]
    assert main([*changed, "--run.name=c"]) == 0
    assert rates("runs/c") == [rate, rate, 2 * rate, 2 * rate]


def test_a_run_that_began_without_a_unit_cannot_take_one_later(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--run.name=a", "--checkpoint.keep_steps=[2]"]) == 0
    options = ["--run.resume=runs/a/checkpoints/step-2", "--run.accept_changes=[optim.lr_in_edges]"]
    assert main([*SMALL, *options, "--optim.lr_in_edges=1", "--run.name=b"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: optim.lr_in_edges: 1 is relative to the sharpness at the start, which ")
