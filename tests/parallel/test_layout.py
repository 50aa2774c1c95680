import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy

from scaled_sgd import HomogeneousMLP
from scaled_sgd.config.parsing import from_dict
from scaled_sgd.parallel import chunk_offsets, even_offsets, full_weight, local_shard, row_range
from scaled_sgd.train.strategies.native import MakeOptimizer, Policy, Sharded
from tests.processes import run_processes


@given(width=st.integers(1, 40), parts=st.integers(1, 9))
def test_even_slices_cover_all_columns_and_differ_by_at_most_one(width: int, parts: int) -> None:
    offsets = even_offsets(width, parts)
    sizes = [b - a for a, b in itertools.pairwise(offsets)]
    assert (offsets[0], offsets[-1]) == (0, width)
    assert max(sizes) - min(sizes) <= 1


@given(width=st.integers(1, 40), parts=st.integers(1, 9))
def test_shard_slices_are_those_of_torch_chunk(width: int, parts: int) -> None:
    offsets = chunk_offsets(width, parts)
    chunks = [len(c) for c in torch.arange(width).chunk(parts)]
    sizes = [b - a for a, b in itertools.pairwise(offsets)]
    assert sizes == chunks + [0] * (parts - len(chunks))


def network(device: torch.device | str) -> HomogeneousMLP:
    """Widths that no number of processes divides: 7, 5, 20, 45, 9."""
    return HomogeneousMLP(7, 9, depth=4, base_width=5, seed=8, device=device)


def held(name: str, tensor_processes: int) -> list[tuple[tuple[int, int], Tensor, Tensor]]:
    """For each layer, which rows this process has, the rows, and what gathering gives."""
    strategy = Sharded(
        name,
        torch.device("cpu"),
        network,
        MakeOptimizer(from_dict({})),
        tensor_processes=tensor_processes,
        policy=None if name == "tensor" else Policy(MixedPrecisionPolicy()),
    )
    weights = [layer.weight for layer in strategy.network.scaled_layers]
    return [(row_range(W), local_shard(W).clone(), full_weight(W).clone()) for W in weights]


def held_by_every_strategy() -> list[list[tuple[tuple[int, int], Tensor, Tensor]]]:
    return [held(name, tensor_processes) for name, tensor_processes in MESHES.items()]


MESHES = {"fsdp2": 1, "tensor": 4, "fsdp2+tensor": 2}


@pytest.mark.slow
def test_the_rows_of_four_processes_make_the_weights_of_the_seed() -> None:
    """On a mesh (data, tensor) rows are cut over tensor first, each part over data."""
    for of_processes in zip(*run_processes(held_by_every_strategy, 4), strict=True):
        for k, layer in enumerate(network("cpu").scaled_layers):
            whole = torch.full_like(layer.weight, torch.nan)
            for (start, stop), rows, gathered in (of_process[k] for of_process in of_processes):
                assert whole[start:stop].isnan().all()
                whole[start:stop] = rows
                assert torch.equal(gathered, layer.weight)
            assert torch.equal(whole, layer.weight)
