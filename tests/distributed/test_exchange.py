"""Steps that exchange factors, against one process with autograd."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from scaled_sgd import DepthwiseScaling, HomogeneousMLP, ScaledSGD
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import get_loss
from scaled_sgd.parallel import Partition, Ranks, full_weight
from scaled_sgd.parallel.exchange import Link, choose_factors, measure_link
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update
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


def reference(rule, options):
    model = network()
    kept = {key: value for key, value in options.items() if key != "clip_norm"}
    optimizer = ScaledSGD(model, 0.2, rule=rule, **kept)
    history = []
    for step in range(STEPS):
        x, y = minibatch(step, 1, 0)
        optimizer.zero_grad()
        loss = get_loss("cross_entropy").value(model(x), y).mean()
        loss.backward()
        norm = torch.cat([weight.grad.flatten() for weight in model.parameters()]).norm()
        clip = options.get("clip_norm")
        optimizer.scaling.factor = 1.0 if clip is None else (clip / (norm + 1e-6)).clamp(max=1.0)
        optimizer.step()
        history.append(torch.cat([loss.detach().reshape(1), norm.reshape(1), optimizer.scales]))
    return torch.stack(history), [weight.detach() for weight in model.parameters()]


def steps(kind, rule, options):
    model, ranks = network(), Ranks()
    if kind == "rows":
        mesh = init_device_mesh("cpu", (ranks.size,))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
    partition = Partition.of(model, ranks=None if kind == "rows" else Ranks.alone())
    by_factors = {"mixed": [True, False, True, False], "gradients": [False] * 4}.get(kind)
    held = [torch.zeros_like(partition.local(k)) for k in range(1, 5)]
    update = Update(lr=0.2, velocity=lambda k: held[k - 1], **options)
    history = []
    for step in range(STEPS):
        x, y = minibatch(step, ranks.size, ranks.rank)
        if kind == "rows":
            x, y = ranks.gather_samples(x, y)
        found = take_step(
            partition,
            x,
            y,
            loss=get_loss("cross_entropy"),
            direct=DepthwiseScaling(model, rule=rule).measure_elsewhere().direction,
            update=update,
            ranks=None if kind == "rows" else ranks,
            by_factors=by_factors,
            measure=True,
        )
        loss = (found.loss if kind == "rows" else ranks.sum(found.loss)) / found.n
        history.append(torch.cat([loss.reshape(1), found.grad_norm.reshape(1), found.scales]))
    return torch.stack(history), [full_weight(weight) for weight in model.parameters()]


CASES = [
    ("factors", "norm", {}),
    ("factors", "norm", {"momentum": 0.6, "weight_decay": 0.1, "clip_norm": 0.3}),
    ("mixed", "gain", {"weight_decay": 0.1}),
    ("mixed", "norm", {"momentum": 0.6, "clip_norm": 0.3}),
    ("gradients", "kernel", {}),
    ("rows", "norm", {"weight_decay": 0.1}),
    ("rows", "gain", {"momentum": 0.6, "clip_norm": 0.3}),
    ("factors", "unit", {"clip_norm": 0.3}),
    ("rows", "unit", {}),
    ("factors", "spectral", {"momentum": 0.6, "weight_decay": 0.1, "clip_norm": 0.3}),
    ("gradients", "spectral", {}),
    ("rows", "spectral", {"momentum": 0.6, "clip_norm": 0.3}),
]
"""Of the layers the third has n ≤ m_min and is orthogonalised in sample space; the first and last have fewer
outputs than inputs, the second fewer inputs."""


def all_cases():
    """Layers updated together, and one by one."""
    found = [steps(*case) for case in CASES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaled_sgd.steps.sizes.HELD", {"cpu": 0})
        return found + [steps(*case) for case in CASES]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_exchanged_steps_are_those_of_one_process(world_size):
    expected = 2 * [reference(rule, options) for _, rule, options in CASES]
    for found in run_processes(all_cases, world_size):
        for (history, weights), (one_history, one_weights) in zip(found, expected, strict=True):
            torch.testing.assert_close(history, one_history, rtol=1e-12, atol=1e-12)
            for weight, one in zip(weights, one_weights, strict=True):
                torch.testing.assert_close(weight, one, rtol=1e-12, atol=1e-12)


def refused():
    found, model = [], network()
    try:
        take_step(
            Partition.of(model), *minibatch(0, 2, 0), loss=get_loss("cross_entropy"),
            direct=DepthwiseScaling(model).measure_elsewhere().direction, update=Update(0.1),
        )  # fmt: skip
    except UserError as error:
        found.append(str(error))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = ScaledSGD(model, 0.1, rule="spectral")
    x, y = minibatch(0, 1, 0)
    get_loss("cross_entropy").value(model(x), y).mean().backward()
    try:
        optimizer.step()
    except UserError as error:
        found.append(str(error))
    return found


def test_parts_that_do_not_say_the_whole_are_refused():
    first, second = run_processes(refused, 2)
    assert first == second
    assert first == [
        "model: the rows of layer 1 do not lie on 2 processes; allowed: FSDP2 and tensor-parallel shards, "
        "or a whole network on one",
        "model: the gradient of layer layers.0 is in parts, whose singular values are not those of the "
        "whole; allowed: optim.update fused (steps.step.take_step), or whole gradients",
    ]


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
    assert choose_factors(model.widths, 8, 4, slow, itemsize=4) == [True] * 3
    assert choose_factors(model.widths, 4096, 4, fast, itemsize=4) == [False] * 3
    assert choose_factors(model.widths, 4096, 4, slow, itemsize=4) == [False] * 3
