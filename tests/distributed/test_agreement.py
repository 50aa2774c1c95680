import pytest
import torch.distributed as dist

from scaled_sgd.core.errors import CheckpointError, UserError
from scaled_sgd.parallel.agreement import Mistakes, from_first_rank, on_every_rank, on_first_rank
from tests.processes import run_processes

pytestmark = pytest.mark.slow


def one_rank_fails():
    def action():
        if dist.get_rank() == 1:
            raise UserError("data.source: gone on one node")
        return dist.get_rank()

    try:
        return on_every_rank(action)
    except UserError as error:
        return str(error)


def first_rank_fails():
    def action():
        raise UserError("run.dir: full")

    try:
        return on_first_rank(action)
    except UserError as error:
        return str(error)


TOLD = Mistakes(CheckpointError, (Exception,), (OSError, UserError), lambda error: f"checkpoint: {error}")


def disk_is_full():
    def action():
        raise OSError("full")

    try:
        return from_first_rank(action, TOLD)
    except CheckpointError as error:
        return str(error)


def one_rank_is_at_fault():
    def action():
        return {}[0] if dist.get_rank() == 1 else "written"

    try:
        return on_every_rank(action, TOLD)
    except Exception as error:
        return type(error).__name__, str(error)


def nobody_fails():
    return on_every_rank(dist.get_rank), on_first_rank(lambda: "directory"), from_first_rank(dist.get_rank)


def test_a_mistake_of_one_rank_is_a_mistake_of_all():
    assert run_processes(one_rank_fails, 2) == ["data.source: gone on one node"] * 2
    assert run_processes(first_rank_fails, 2) == ["run.dir: full"] * 2


def test_what_is_told_need_not_be_a_mistake_and_a_fault_stays_one_where_it_is():
    assert run_processes(disk_is_full, 2) == ["checkpoint: full"] * 2
    assert run_processes(one_rank_is_at_fault, 2) == [
        ("CheckpointError", "checkpoint: 0"), ("KeyError", "0")
    ]  # fmt: skip


def test_without_mistakes_every_rank_has_its_result():
    assert run_processes(nobody_fails, 2) == [(0, "directory", 0), (1, None, 0)]
