"""Steps that exchange factors, against one process with autograd."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from scaled_sgd import HomogeneousMLP, ScaledSGD
from scaled_sgd.exchange import Link, choose_factors, exchanged_step, measure_link, row_sharded_step
from scaled_sgd.fused import scale_by
from scaled_sgd.losses import get_loss
from scaled_sgd.scaling import get_rule
from scaled_sgd.sharding import Partition, Ranks, full_weight
from tests.processes import run_processes

pytestmark = pytest.mark.slow

ROWS, STEPS = 11, 6
SPLITS = {1: [11], 2: [10, 1], 4: [0, 5, 2, 4]}


def network():
    return HomogeneousMLP(6, 3, depth=4, base_width=3, activation=(0.4, 0.9), seed=0, dtype=torch.float64)


def minibatch(step, world_size, rank):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (ROWS,), generator=generator)
    own = torch.arange(ROWS).split(SPLITS[world_size])[rank]
    return x[own], y[own]


def reference(rule, weight_decay):
    model = network()
    optimizer = ScaledSGD(model, 0.2, rule=rule, weight_decay=weight_decay)
    history = []
    for step in range(STEPS):
        x, y = minibatch(step, 1, 0)
        optimizer.zero_grad()
        loss = get_loss("cross_entropy").value(model(x), y).mean()
        loss.backward()
        optimizer.step()
        history.append(torch.cat([loss.detach().reshape(1), optimizer.scales]))
    return torch.stack(history), [weight.detach() for weight in model.parameters()]


def steps(kind, rule, weight_decay):
    model, ranks = network(), Ranks()
    scale = scale_by(get_rule(rule), model)
    if kind == "rows":
        mesh = init_device_mesh("cpu", (ranks.size,))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
    partition = Partition.of(model)
    by_factors = {"factors": None, "mixed": [True, False, True, False], "gradients": [False] * 4}.get(kind)
    options = {"loss": get_loss("cross_entropy"), "scale": scale, "lr": 0.2, "weight_decay": weight_decay}
    history = []
    for step in range(STEPS):
        x, y = minibatch(step, ranks.size, ranks.rank)
        if kind == "rows":
            loss, scales = row_sharded_step(partition, x, y, **options)
        else:
            loss, scales = exchanged_step(model, x, y, by_factors=by_factors, **options)
        history.append(torch.cat([loss.reshape(1), scales]))
    return torch.stack(history), [full_weight(weight) for weight in model.parameters()]


CASES = [
    ("factors", "norm", 0.0),
    ("mixed", "gain", 0.1),
    ("gradients", "kernel", 0.0),
    ("rows", "norm", 0.1),
]


def all_cases():
    return [steps(*case) for case in CASES]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_exchanged_steps_are_those_of_one_process(world_size):
    expected = [reference(rule, weight_decay) for _, rule, weight_decay in CASES]
    for found in run_processes(all_cases, world_size):
        for (history, weights), (one_history, one_weights) in zip(found, expected, strict=True):
            torch.testing.assert_close(history, one_history, rtol=1e-11, atol=1e-13)
            for weight, one in zip(weights, one_weights, strict=True):
                torch.testing.assert_close(weight, one, rtol=1e-11, atol=1e-13)


def measured():
    link = measure_link(Ranks(), torch.device("cpu"), torch.float32)
    return link.bandwidth, link.rate, dist.get_rank()


def test_the_link_is_measured_alike_on_every_rank():
    first, second = run_processes(measured, 2)
    assert first[:2] == second[:2]
    assert min(first[:2]) > 0


def test_factors_are_chosen_where_samples_are_few_or_the_link_is_slow():
    ranks = Ranks.alone()
    ranks.size = 4
    model = HomogeneousMLP(512, 512, depth=3, base_width=512, width_exponent=0.0, device="meta")
    fast, slow = (Link(bandwidth, 1e11) for bandwidth in (1e12, 1e7))
    assert choose_factors(model, 8, ranks, slow) == [True] * 3
    assert choose_factors(model, 4096, ranks, fast) == [False] * 3
    assert choose_factors(model, 4096, ranks, slow) == [False] * 3
