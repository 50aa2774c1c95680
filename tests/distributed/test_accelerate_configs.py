"""The files of configs/accelerate and configs/deepspeed: read by Accelerate, and launched."""

import json
import re
from functools import cache

import pytest
import yaml
from accelerate.commands.config import load_config_from_file

from scaled_sgd.config.parsing import parse
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.train.accelerator import check_deepspeed
from tests.launching import REPOSITORY
from tests.programs import launch
from tests.training import run_all

ACCELERATE = sorted((REPOSITORY / "configs/accelerate").glob("*.yaml"))
DEEPSPEED = sorted((REPOSITORY / "configs/deepspeed").glob("*.json"))
SMALL = (
    "--scaling.rule=norm",
    "--model.depth=3", "--model.base_width=8", "--optim.steps=5", "--run.log_every=1", "--run.eval_every=0",
    "--optim.momentum=0.9", "--optim.clip_norm=0.05", "--optim.lr=1",
)  # fmt: skip


@pytest.mark.parametrize("file", ACCELERATE, ids=lambda file: file.name)
def test_accelerate_reads_the_file(file):
    config = load_config_from_file(str(file))
    assert config.num_processes == 2
    assert not (config.use_cpu and config.distributed_type == "DEEPSPEED")
    several = file.stem.endswith("-multinode")
    assert config.num_machines == (2 if several else 1)
    assert config.main_process_port == (29500 if several else 0)
    named = re.search(r"--config_file (\S+)", file.read_text())
    assert named is not None
    assert REPOSITORY / named[1] == file


@pytest.mark.parametrize(
    "file", [f for f in ACCELERATE if f.name.startswith("zero")], ids=lambda file: file.name
)
def test_a_zero_file_leads_to_the_stage_in_its_name(file):
    settings = yaml.safe_load(file.read_text())["deepspeed_config"]
    named = REPOSITORY / settings["deepspeed_config_file"]
    stage = json.loads(named.read_text())["zero_optimization"]["stage"]
    assert f"zero{stage}" == file.stem.split("-")[0] == named.stem
    assert f"zero{stage}" in STRATEGIES
    if file.stem.endswith("-multinode"):
        assert settings["deepspeed_multinode_launcher"] == "standard"


@pytest.mark.parametrize("arguments", [[], ["--run.precision=bf16", "--optim.clip_norm=1"]])
@pytest.mark.parametrize("file", DEEPSPEED, ids=lambda file: file.name)
def test_deepspeed_files_leave_every_decision_to_the_run(file, arguments):
    check_deepspeed(json.loads(file.read_text()), parse(arguments), micro_batch=7)


@cache
def losses_of_one_process():
    (run,) = run_all([SMALL], 1)
    return [row["loss"] for row in run.rows if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["zero3", *(pytest.param(name, marks=pytest.mark.full) for name in ("fsdp2", "zero2"))]
)
def test_a_launch_file_trains_as_one_process_does(name, tmp_path):
    """Not every file: a launch takes ten seconds. ZeRO-1 and 2 only differ in their stage."""
    if name.startswith("zero"):
        pytest.importorskip("deepspeed")
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    options = ("--config_file", f"configs/accelerate/{name}.yaml")
    done = launch(2, *SMALL, "--run.name=launched", cwd=tmp_path, options=options)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/launched"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["strategy"], summary["world_size"]) == (name, 2)
    losses = [row["loss"] for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 5
    assert losses == pytest.approx(losses_of_one_process(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.full
def test_a_launched_strategy_is_not_replaced_by_another(tmp_path):
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    options = ("--config_file", "configs/accelerate/fsdp2.yaml")
    done = launch(2, *SMALL, "--sharding.strategy=tensor", cwd=tmp_path, options=options)
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [
        "error: sharding.strategy: 'tensor' was asked for and 'fsdp2' launched; allowed: auto, fsdp2, or a "
        "launch without DeepSpeed and FSDP"
    ]
