import pytest
import torch
import torch.distributed as dist

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import Ranks
from tests.processes import run_processes


def test_one_process_is_a_world_of_its_own() -> None:
    ranks = Ranks()
    t = torch.randn(3, 2)
    assert (ranks.size, ranks.rank, ranks.members) == (1, 0, (0,))
    assert ranks.gather(t, [3]) is t
    assert ranks.sum_and_cut(t, [3]) is t
    assert ranks.sum(t) is t
    assert ranks.counts(3, t.device) == [3]


def test_an_empty_minibatch_is_refused() -> None:
    with pytest.raises(UserError, match=r"^x:"):
        Ranks().gather_samples(torch.empty(0, 3), torch.empty(0))


def collectives() -> tuple[list[float], list[float], int]:
    """On processes in the order 2, 0, 1, of which the first brings nothing."""
    ranks = Ranks(order=(2, 0, 1))
    sizes = [0, 1, 2]
    own = torch.full((sizes[ranks.rank],), float(dist.get_rank()))
    gathered = ranks.gather(own, sizes)
    kept = ranks.sum_and_cut(torch.arange(3.0), sizes)
    return gathered.tolist(), kept.tolist(), ranks.rank


@pytest.mark.slow
def test_parts_of_any_size_lie_in_the_order_of_the_ranks() -> None:
    found = run_processes(collectives, 3)
    assert found == [([0, 1, 1], [0], 1), ([0, 1, 1], [3, 6], 2), ([0, 1, 1], [], 0)]
