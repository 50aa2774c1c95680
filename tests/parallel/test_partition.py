import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import Partition, Ranks, unwrap
from tests.oracles import make_problem
from tests.processes import run_processes


def test_one_process_holds_everything_and_moves_nothing() -> None:
    p = make_problem()
    partition = Partition.of(p.model)
    assert partition.local(2).data_ptr() == p.model.layers[1].weight.data_ptr()
    t = torch.randn(3, p.model.widths[1])
    assert partition.gather(t, 1) is t
    assert partition.own(t, 1) is t
    assert partition.sum(t) is t


def test_half_precision_weights_come_out_as_float32() -> None:
    partition = Partition.of(make_problem(dtype=torch.bfloat16).model)
    assert (partition.dtype, partition.local(1).dtype) == (torch.float32, torch.float32)


def test_constants_first_read_in_inference_mode_serve_later_gradients() -> None:
    # Of a depth that no other test has: constants are made once.
    model = make_problem(depth=9, base_width=1).model
    with torch.inference_mode():
        Partition.of(model).alpha.sum()
    assert not Partition.of(model).alpha.is_inference()
    weight = torch.ones(9, dtype=torch.float64, requires_grad=True)
    (weight * Partition.of(model).alpha).sum().backward()
    assert weight.grad is not None


@pytest.mark.slow
def test_compiled_models_are_unwrapped_and_foreign_attributes_left_alone() -> None:
    model = make_problem().model
    assert unwrap(torch.compile(model)) is model
    holder = nn.Module()
    holder.module = model
    assert unwrap(holder) is holder
    with pytest.raises(UserError, match=r"^model: Module is not available here"):
        Partition.of(holder)


def pieces() -> tuple[object, ...]:
    rank = dist.get_rank()
    ranks = Ranks()
    x = torch.arange(6.0).view(3, 2)[: [2, 0, 1][rank]] + 10 * rank
    gathered = ranks.gather_samples(x, torch.full((len(x),), rank))
    model = make_problem(base_width=2).model
    replica = Partition.of(model)
    t = torch.arange(4.0 * model.widths[2]).view(4, -1)
    round_trip = replica.gather(replica.own(t, 2), 2)
    weights = [layer.weight.detach().clone() for layer in model.layers]
    mesh = init_device_mesh("cpu", (3,))
    for layer, placement in zip(model.layers, (Shard(0), Shard(1), Shard(0), Shard(1)), strict=True):
        layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [placement]))
    sharded = Partition.of(model)
    rows = [torch.equal(sharded.local(k), w[sharded.columns(k)]) for k, w in enumerate(weights, start=1)]
    kinds = [sharded.offsets[k] == replica.offsets[k] for k in (2, 4)]
    return gathered, torch.equal(round_trip, t), all(rows), all(kinds)


@pytest.mark.slow
def test_samples_columns_and_rows_come_together_in_three_processes() -> None:
    for (x, y), round_trip, rows, kinds in run_processes(pieces, 3):
        assert x.tolist() == [[0, 1], [2, 3], [20, 21]]
        assert y.tolist() == [0, 0, 2]
        assert round_trip
        assert rows
        assert kinds
