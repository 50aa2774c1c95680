"""Depthwise scaling in DistributedDataParallel, against one process."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from scaled_sgd import DepthwiseScaling, HomogeneousMLP, ScaledSGD
from tests.processes import run_processes

pytestmark = pytest.mark.slow

STEPS, ROWS = 20, 13


def minibatch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (ROWS,), generator=generator)


def splits(world_size):
    """Rows of each rank: as unequal as can be, one rank without any."""
    sizes = {1: [13], 2: [12, 1], 4: [0, 7, 1, 5]}[world_size]
    return torch.arange(ROWS).split(sizes)


def train(
    *, rule="norm", microbatches=1, overlap=False, hook=True, momentum=0.0, clip=None, rank=0, world_size=1
):
    """Scales of every step and the final weights of one rank."""
    model = HomogeneousMLP(6, 3, depth=4, base_width=3, seed=0, dtype=torch.float64)
    wrapped = DistributedDataParallel(model) if world_size > 1 else model
    if hook:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=momentum)
        scaling = DepthwiseScaling(wrapped, optimizer, rule=rule)
    else:
        optimizer = ScaledSGD(wrapped, 0.2, rule=rule, momentum=momentum)
        scaling = optimizer.scaling
    history = []
    for step in range(STEPS):
        x, y = minibatch(step)
        own = splits(world_size)[rank]
        optimizer.zero_grad()
        parts = own.tensor_split(microbatches)
        for part, rows in enumerate(parts, start=1):
            last = part == len(parts)
            with nullcontext() if last or world_size == 1 else wrapped.no_sync():
                losses = F.cross_entropy(wrapped(x[rows]), y[rows], reduction="sum")
                scaling.overlap = overlap and last
                (losses * world_size / ROWS).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        history.append(scaling.scales.clone())
    return torch.stack(history), [weight.detach().clone() for weight in model.parameters()]


def one_rank(options):
    return train(**options, rank=dist.get_rank(), world_size=dist.get_world_size())


VARIANTS = [
    {"rule": "norm"},
    {"rule": "gain", "hook": False, "overlap": True},
    {"rule": "kernel", "microbatches": 3},
    {"rule": "norm", "microbatches": 3, "overlap": True, "hook": False, "momentum": 0.9},
    {"rule": "norm", "overlap": True, "clip": 0.01, "momentum": 0.9},
]


def all_variants():
    return [one_rank(options) for options in VARIANTS]


@pytest.mark.parametrize("world_size", [2, 4])
def test_scales_and_weights_do_not_depend_on_processes_or_on_how_the_minibatch_is_split(world_size):
    expected = [train(**options) for options in VARIANTS]
    for rank_results in run_processes(all_variants, world_size):
        for (scales, weights), (one_scales, one_weights) in zip(rank_results, expected, strict=True):
            torch.testing.assert_close(scales, one_scales, rtol=1e-12, atol=0)
            for weight, reference in zip(weights, one_weights, strict=True):
                torch.testing.assert_close(weight, reference, rtol=1e-11, atol=1e-13)


def through_accelerate():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = HomogeneousMLP(6, 3, depth=4, base_width=3, seed=0, dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    prepared, wrapped = accelerator.prepare(model, optimizer)
    scaling = DepthwiseScaling(prepared, wrapped)
    for step in range(5):
        x, y = minibatch(step)
        own = splits(accelerator.num_processes)[accelerator.process_index]
        losses = F.cross_entropy(prepared(x[own]), y[own], reduction="sum")
        accelerator.backward(losses * accelerator.num_processes / ROWS)
        wrapped.step()
        wrapped.zero_grad()
    return scaling.scales, [weight.detach() for weight in model.parameters()]


def test_the_hook_works_through_accelerator_prepare():
    (one_scales, one_weights), *_ = run_processes(through_accelerate, 1)
    for scales, weights in run_processes(through_accelerate, 2):
        torch.testing.assert_close(scales, one_scales, rtol=1e-11, atol=0)
        for weight, reference in zip(weights, one_weights, strict=True):
            torch.testing.assert_close(weight, reference, rtol=1e-9, atol=1e-12)


def count_collectives():
    """How many all-reduces, of how many numbers, one step of the hook takes."""
    calls = []
    original = dist.all_reduce

    def counting(tensor, *args, **kwargs):
        calls.append(tensor.numel())
        return original(tensor, *args, **kwargs)

    dist.all_reduce = counting
    try:
        model = HomogeneousMLP(6, 3, depth=4, base_width=3, seed=0, dtype=torch.float64)
        optimizer = ScaledSGD(model, 0.1)
        x, y = minibatch(0)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    finally:
        dist.all_reduce = original
    return calls


def test_a_step_takes_one_all_reduce_of_four_numbers_a_layer():
    assert run_processes(count_collectives, 2) == [[16], [16]]
