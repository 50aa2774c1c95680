"""Minibatches of streams: what one rank asks of the others, all ask."""

from types import SimpleNamespace

import pytest
import torch

from scaled_sgd.data import Batch, rank_rows
from scaled_sgd.train.samples import _gathering


@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_rank_gathers_the_whole_of_a_minibatch_however_small(n):
    """Two ranks share out one sample: the one that has it all waits for the other no less."""
    asked = {0: 0, 1: 0}
    x, y = torch.arange(2.0 * n).view(n, 2), torch.arange(n)
    for rank in (0, 1):

        def gather(t, sizes, rank=rank):
            asked[rank] += 1
            assert sum(sizes) == n
            return t

        rows = rank_rows(n, rank, 2)
        batch = Batch(0, 0, n, rows, lambda rows: (x[rows], y[rows]))
        gathering = _gathering(batch, SimpleNamespace(size=2, gather=gather))
        assert gathering.own()[1].tolist() == y[rows].tolist()
        assert asked[rank] == 0
        gathering.whole()
    assert asked == {0: 2, 1: 2}
