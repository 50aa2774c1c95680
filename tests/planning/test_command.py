"""``scaled-sgd doctor --plan``."""

import json
import subprocess
import sys

import pytest

from scaled_sgd.cli import main as command
from scaled_sgd.config import DataConfig
from scaled_sgd.data import load_data
from scaled_sgd.planning import PLANNED
from scaled_sgd.planning.doctor.plan import DIGITS
from tests.launching import environment

CLUSTER = ("--plan.ranks=1024", "--plan.memory=80GiB", "--features=784", "--outputs=10")


def plan(*arguments):
    return command(["doctor", "--plan", *arguments])


def test_the_digits_need_not_be_loaded():
    data = load_data(DataConfig(), seed=0, quiet=True)
    assert (data.in_features, data.out_features) == DIGITS


def test_every_strategy_is_listed_and_one_recommended(capsys):
    assert plan(*CLUSTER, "--model.depth=8", "--model.base_width=256") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in PLANNED] == list(
        PLANNED
    )
    taken = [line for line in lines if line.startswith("take ")]
    assert len(taken) == 1
    assert taken[0].split()[1].rstrip(":") in PLANNED
    assert max(map(len, lines)) <= 140


def test_machines_read_it_too(capsys):
    assert plan(*CLUSTER, "--json", "--optim.momentum=0.9") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["load"]["widths"][0] == 784
    assert found["cluster"]["ranks"] == 1024
    assert found["take"] in [strategy["strategy"] for strategy in found["strategies"]]
    for strategy in found["strategies"]:
        assert strategy["peak_bytes"] == sum(strategy["peak"].values()) > 0


def test_keys_come_from_files_and_options_as_in_training(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("model:\n  base_width: 7\n  width_exponent: 0.0\n  depth: 3\noptim:\n  batch_size: 99\n")
    assert plan("--config", str(file), "--model.depth", "4") == 0
    out = capsys.readouterr().out
    assert "64 × 7 × 7 × 7 × 10" in out
    assert "99 samples" in out


def test_layers_say_what_moves(capsys):
    assert (
        plan(
            "--plan.ranks=4",
            "--layers",
            "--optim.batch_size=8",
            "--model.width_exponent=0",
            "--model.base_width=2000",
        )
        == 0
    )
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(1, 7))
    assert rows[2][-1] == "factors"
    assert plan("--layers") == 0
    assert "no layer has a choice" in capsys.readouterr().out


@pytest.mark.parametrize(
    "ranks", [["12"], ["20"], ["3", "--plan.ranks_per_machine=2"], ["7"], ["9", "--plan.ranks_per_machine=4"]]
)
def test_machines_need_not_all_be_full(ranks, capsys):
    assert plan("--plan.ranks", *ranks) == 0
    assert "fsdp2 " in capsys.readouterr().out


def test_what_cannot_train_is_left_out(capsys):
    assert plan("--plan.ranks=4", "--json", "--model.dtype=float64", "--optim.accumulation=2") == 0
    names = [strategy["strategy"] for strategy in json.loads(capsys.readouterr().out)["strategies"]]
    assert names == ["ddp", "fsdp2", "tensor", "fsdp2+tensor"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--plan.memory=80XB"], "plan.memory: '80XB' is not usable; allowed: sizes such as 80GiB or 25GB"),
        (
            ["--plan.rate=fast"],
            "plan.rate: 'fast' is not usable; allowed: operations a second such as 60T or 5e10",
        ),
        (["--plan.ranks=0"], "plan.ranks: 0 is not usable; allowed: integers from 1 to 10,000,000"),
        (
            ["--plan.ranks=4", "--plan.ranks_per_machine=5"],
            "plan.ranks_per_machine: 5 is not usable; allowed: integers from 1 to 4",
        ),
        (
            ["--plan.speed=1"],
            "plan.speed: unknown key; allowed: plan.ranks, plan.ranks_per_machine, plan.device, ",
        ),
        (
            ["--data.source=elsewhere"],
            "features: None, outputs: None with data.source 'elsewhere', which a plan does not read; "
            "allowed: --features M0 --outputs ML",
        ),
        (["--model.depht=3"], "model.depht: unknown key; did you mean model.depth?"),
        (["--features=0"], "features: 0 is not usable; allowed: integers from 1"),
        (
            ["--plan.ranks=6", "--sharding.tensor_processes=4"],
            "sharding.tensor_processes: 4 does not divide the 6 processes; allowed: 1, 2, 3, 6",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, expected, capsys):
    assert plan(*arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 1
    assert errors.startswith(f"error: {expected}")


@pytest.mark.slow
def test_a_plan_starts_no_processes_and_loads_no_launcher():
    code = (
        "import sys; from scaled_sgd.cli import main; main(['doctor', '--plan', '--plan.ranks=64']); "
        "import torch.distributed as dist; sys.exit(dist.is_initialized() or 'deepspeed' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True).returncode == 0
    )
