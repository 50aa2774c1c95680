"""``scaled-sgd doctor --plan``."""

import json
from dataclasses import replace

import pytest

from scaled_sgd.cli import main as command
from scaled_sgd.config import DataConfig
from scaled_sgd.config.parsing import parse
from scaled_sgd.data import load_data
from scaled_sgd.parallel.strategies import STRATEGIES, Capabilities
from scaled_sgd.planning import COSTS, Workload, advise, nominal, predict
from scaled_sgd.planning.doctor.cost_table import CostTable
from scaled_sgd.planning.doctor.plan import DIGITS
from scaled_sgd.planning.shards import fsdp2
from scaled_sgd.planning.table import Formulas

NORM = "--scaling.rule=norm"
CLUSTER = ("--plan.ranks=1024", "--plan.memory=80GiB", "--features=784", "--outputs=10")


def plan(*arguments):
    return command(["doctor", "--plan", *arguments])


def test_the_digits_need_not_be_loaded():
    data = load_data(DataConfig(), seed=0, quiet=True)
    assert (data.in_features, data.out_features) == DIGITS


def lines_of(capsys, *arguments):
    """By the rule that every strategy has."""
    assert plan(NORM, *arguments) == 0
    return capsys.readouterr().out.splitlines()


def strategies_in(lines):
    """The first words of the table's rows."""
    start = next(row for row, line in enumerate(lines) if line.startswith("strategy"))
    return [line.split()[0] for line in lines[start + 1 : lines.index("", start)]]


def taken_from(lines):
    """The options behind ``take``."""
    (line,) = [line for line in lines if line.startswith("take ")]
    return line.split()[1:]


def test_every_strategy_is_listed_and_one_recommended(capsys):
    lines = lines_of(capsys, *CLUSTER, "--model.depth=8", "--model.base_width=256")
    listed = strategies_in(lines)
    assert [name for name in listed if not name.endswith("+fused")] == list(STRATEGIES)
    assert [name for name in listed if name.endswith("+fused")] == ["ddp+fused", "fsdp2+fused"]
    assert max(map(len, lines)) <= 140


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model.depth=8", "--model.base_width=256"),
        ("--model.base_width=1000", "--model.width_exponent=0", "--optim.batch_size=16"),
        ("--plan.ranks=16", "--model.base_width=600", "--plan.memory=1GiB", "--optim.batch_size=65536"),
        ("--plan.memory=4MiB",),
    ],
)
def test_what_is_recommended_can_be_pasted(arguments, capsys):
    """The plan then says the same; where a smaller minibatch was named, something fits."""
    taken = taken_from(lines_of(capsys, *CLUSTER, *arguments))
    assert taken[0] == "--sharding.strategy"
    assert parse([NORM, *taken]).sharding.strategy == taken[1] in STRATEGIES
    lines = lines_of(capsys, *CLUSTER, *arguments, *taken)
    if "--optim.batch_size" in taken:
        assert not any("none fits" in line for line in lines)
    else:
        assert taken_from(lines) == taken


def test_a_strategy_is_listed_by_its_capabilities_and_a_cost(capsys):
    """Another package's: one entry in each of two tables."""
    STRATEGIES.add("halves", Capabilities("halves", "two halves of it", ("no",)))
    COSTS.add("halves", Formulas(lambda work, hardware: replace(fsdp2(work, hardware), strategy="halves")))
    try:
        assert strategies_in(lines_of(capsys, "--plan.ranks=2"))[-1] == "halves"
        lines = lines_of(capsys, "--plan.ranks=2", "--run.precision=tf32")
        assert any(line.startswith("left out  halves: run.precision: 'tf32'") for line in lines)
    finally:
        STRATEGIES.remove("halves")
        COSTS.remove("halves")


def test_a_strategy_that_needs_a_launch_of_its_own_says_which():
    work, hardware = Workload((64, 10), 8), replace(nominal("cuda"), ranks=2, per_machine=2)
    cost = predict("zero1", work, hardware)
    table = CostTable(work, hardware, (cost,), {}, advise([cost], hardware), "")
    assert table.text(layers=False).splitlines()[-1] == (
        "launch    accelerate launch --config_file configs/accelerate/zero1.yaml"
    )


@pytest.mark.parametrize(
    ("option", "key", "missing"),
    [
        ("--optim.accumulation=2", "optim.accumulation", {"ddp+fused", "fsdp2+fused"}),
        (
            "--sharding.activation_checkpointing=true",
            "sharding.activation_checkpointing",
            {"ddp+fused", "fsdp2+fused"},
        ),
        ("--model.dtype=float64", "model.dtype", {"zero1", "zero2", "zero3"}),
    ],
)
def test_what_cannot_train_is_left_out_by_name(option, key, missing, capsys):
    left_out = [line for line in lines_of(capsys, "--plan.ranks=4", option) if line.startswith("left out  ")]
    assert left_out
    assert all(f": {key}: " in line and "; allowed: " in line for line in left_out)
    found = json.loads("\n".join(lines_of(capsys, "--plan.ranks=4", option, "--json")))
    assert {label for labels in found["left_out"].values() for label in labels} == missing
    assert not {row["strategy"] for row in found["strategies"]} & missing


def test_machines_read_it_too(capsys):
    assert plan(*CLUSTER, "--json", "--optim.momentum=0.9") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["load"]["widths"][0] == 784
    assert found["cluster"]["ranks"] == 1024
    rows = {strategy["strategy"]: strategy for strategy in found["strategies"]}
    assert rows[found["take"]]["options"] == found["options"]
    for row in rows.values():
        assert row["peak_bytes"] >= row["held_bytes"] > 0


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
    assert plan(NORM, "--plan.ranks", *ranks) == 0
    assert "fsdp2 " in capsys.readouterr().out


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
