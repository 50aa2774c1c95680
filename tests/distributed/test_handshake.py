import json

import pytest
import torch
import torch.distributed as dist

from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import load_data
from scaled_sgd.train.handshake import agree_on_run
from tests.launching import PATIENCE, free_ports
from tests.processes import run_processes
from tests.programs import Program

pytestmark = pytest.mark.slow


def start_ranks(*arguments_of_rank, cwd):
    """Ranks without a launcher, as on machines of their own, each with its command line."""
    (port,) = free_ports(1)
    world = {"WORLD_SIZE": str(len(arguments_of_rank)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        Program(
            *("-m", "scaled_sgd.train", "--run.name=ranks", "--optim.steps=2"),
            *arguments,
            cwd=cwd,
            **world,
            RANK=str(rank),
            LOCAL_RANK="0",
            LOCAL_WORLD_SIZE="1",
        )
        for rank, arguments in enumerate(arguments_of_rank)
    ]


def agree(arguments_of_rank):
    config = parse(arguments_of_rank[dist.get_rank()])
    data = load_data(config.data, seed=0, quiet=True)
    try:
        agree_on_run(config, data, torch.device("cpu"), 2)
    except UserError as error:
        return str(error)


def test_every_rank_hears_which_key_differs():
    first, second = ["--optim.batch_size=64"], ["--optim.batch_size=65"]
    assert (
        run_processes(agree, 2, [first, second])
        == ["optim.batch_size: 65 on rank 1 and 64 on rank 0; allowed: one configuration on all ranks"] * 2
    )
    assert run_processes(agree, 2, [first, first]) == [None, None]


def test_machines_with_different_configurations_do_not_train(tmp_path):
    ranks = start_ranks(["--optim.lr=1"], ["--optim.lr=2"], cwd=tmp_path)
    _, errors = ranks[0].communicate(timeout=PATIENCE)
    ranks[1].terminate()  # it would wait for a launcher to end it
    ranks[1].communicate(timeout=PATIENCE)
    assert ranks[0].returncode == 2
    assert [line for line in errors.splitlines() if line.startswith("error:")] == [
        "error: optim.lr: 2.0 on rank 1 and 1.0 on rank 0; allowed: one configuration on all ranks"
    ]
    assert not (tmp_path / "runs").exists()


def test_machines_may_keep_their_data_in_places_of_their_own(tmp_path):
    rows = "".join(f"{i % 7},{i % 3},{i % 2}\n" for i in range(40))
    for rank in range(2):
        (tmp_path / f"machine-{rank}.csv").write_text("a,b,label\n" + rows)
    ranks = start_ranks(
        *([f"--data.source=machine-{rank}.csv", "--data.target=label"] for rank in range(2)), cwd=tmp_path
    )
    for rank in ranks:
        _, errors = rank.communicate(timeout=PATIENCE)
        assert rank.returncode == 0, errors
    assert json.loads((tmp_path / "runs/ranks/summary.json").read_text())["world_size"] == 2
