import pytest
import torch.distributed as dist

from scaled_sgd.agreement import on_every_rank, on_first_rank
from scaled_sgd.errors import UserError
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


def nobody_fails():
    return on_every_rank(dist.get_rank), on_first_rank(lambda: "directory")


def test_a_mistake_of_one_rank_is_a_mistake_of_all():
    assert run_processes(one_rank_fails, 2) == ["data.source: gone on one node"] * 2
    assert run_processes(first_rank_fails, 2) == ["run.dir: full"] * 2


def test_without_mistakes_every_rank_has_its_result():
    assert run_processes(nobody_fails, 2) == [(0, "directory"), (1, None)]
