"""All of torch's and Accelerate's ways to save, copy and load give the same further steps."""

import copy
import io
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard

from scaled_sgd import DepthwiseScaling, HomogeneousMLP, ScaledSGD
from scaled_sgd.core.errors import UserError
from tests.examples import pairwise
from tests.processes import run_processes
from tests.steps.test_hook import backward, batch, network


def make(folds, static, momentum=0.9):
    model = network()
    if folds:
        optimizer = ScaledSGD(model, 0.3, momentum=momentum, static=static)
        return model, optimizer, optimizer.scaling
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=momentum)
    return model, optimizer, DepthwiseScaling(model, optimizer, static=static)


def steps(model, optimizer, seeds):
    for seed in seeds:
        optimizer.zero_grad()
        backward(model, *batch(seed=seed))
        optimizer.step()


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "torch.save": saved,
}
KINDS = [(folds, static) for folds in (False, True) for static in (False, True)]


@pytest.mark.parametrize(
    ("again", "kind", "order"), pairwise(COPIES.values(), KINDS, [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 1)])
)
def test_copies_take_the_same_further_steps_and_leave_the_original_alone(again, kind, order):
    folds, static = kind
    parts = make(folds, static)
    straight = make(folds, static)
    steps(*straight[:2], range(6))
    steps(*parts[:2], range(3))
    copied = dict(zip(order, again(tuple(parts[i] for i in order)), strict=True))
    steps(copied[0], copied[1], range(3, 6))
    for a, b in zip(straight[0].parameters(), copied[0].parameters(), strict=True):
        assert torch.equal(a, b)
    if 2 in copied:
        assert torch.equal(straight[2].scales, copied[2].scales)
    steps(*parts[:2], range(3, 6))
    for a, b in zip(straight[0].parameters(), parts[0].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("again", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_hook_has_a_network_and_an_optimizer_of_its_own(again):
    model, optimizer, scaling = make(False, False)
    steps(model, optimizer, range(2))
    other = again(scaling)
    assert torch.equal(other.scales, scaling.scales)
    other.detach()
    straight = make(False, False)
    for pair in ((model, optimizer), straight[:2]):
        steps(*pair, range(2 if pair[0] is model else 0, 4))
    assert torch.equal(straight[2].scales, scaling.scales)


@pytest.mark.parametrize("again", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_hooked_network_measures_nothing(again):
    model, optimizer, scaling = make(False, False)
    before = torch.nn.modules.module.RemovableHandle.next_id
    other = again(model)
    backward(other, *batch(seed=1))
    assert not scaling._norms.seen
    plain = torch.optim.SGD(other.parameters(), lr=0.3)
    hook = DepthwiseScaling(other, plain)
    assert torch.nn.modules.module.RemovableHandle.next_id > before
    other.zero_grad()
    backward(other, *batch())
    plain.step()
    steps(model, optimizer, [0])
    assert torch.equal(hook.scales, scaling.scales)


def test_a_hook_of_a_process_group_is_not_copied(monkeypatch):
    scaling = DepthwiseScaling(network())
    scaling._norms.group = object()
    with pytest.raises(UserError, match="process_group: it cannot be copied"):
        copy.deepcopy(scaling)


@pytest.mark.parametrize(
    ("kind", "momentum", "warm", "flat"), pairwise(KINDS, [0.0, 0.9], [False, True], [False, True])
)
def test_states_of_torch_distributed_checkpoint_give_the_same_further_steps(kind, momentum, warm, flat):
    folds, static = kind
    """It makes an optimizer's state by a step with zero gradients, where there is none."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer, scaling = make(folds, static, momentum)
    get_optimizer_state_dict(model, optimizer)
    steps(model, optimizer, range(3))
    optimizer.zero_grad()
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    other, resumed, hook = make(folds, static, momentum)
    other.load_state_dict(model.state_dict())
    if warm:
        steps(other, resumed, range(4, 5))
        resumed.zero_grad()
        other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, resumed, state, options=options)
    if not folds:
        hook.load_state_dict(scaling.state_dict())
    assert torch.equal(hook.scales, scaling.scales)
    for pair in ((model, optimizer), (other, resumed)):
        steps(*pair, range(5, 8))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def through_fsdp2(folder):
    """Largest difference after a resumed step, for the hook and for ScaledSGD."""
    rank, found = dist.get_rank(), []
    for folds in (False, True):

        def made(folds=folds):
            model = HomogeneousMLP(6, 3, depth=3, base_width=3, seed=0, dtype=torch.float64)
            for layer in model.layers:
                fully_shard(layer)
            fully_shard(model)
            if folds:
                return model, ScaledSGD(model, 0.3, momentum=0.9, static=True)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
            DepthwiseScaling(model, optimizer)
            return model, optimizer

        model, optimizer = made()
        steps(model, optimizer, range(rank, 6, 2))
        path = f"{folder}/{folds}"
        weights, state = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=path)
        other, resumed = made()
        weights, state = get_state_dict(other, resumed)
        stored = {"model": weights, "optimizer": state}
        dcp.load(stored, checkpoint_id=path)
        set_state_dict(other, resumed, model_state_dict=stored["model"], optim_state_dict=stored["optimizer"])
        for pair in ((model, optimizer), (other, resumed)):
            steps(*pair, [rank])
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            found.append(torch.equal(a.to_local(), b.to_local()))
    return found


@pytest.mark.slow
def test_fsdp2_resumes_from_distributed_checkpoints(tmp_path):
    assert run_processes(through_fsdp2, 2, str(tmp_path)) == [[True] * 6] * 2


def without_synchronisation():
    """ξ of FSDP2 where microbatches are reduced with the last one, and of the whole minibatch."""
    found = []
    for parts in (1, 3):
        model = HomogeneousMLP(6, 3, depth=3, base_width=3, seed=0, dtype=torch.float64)
        for layer in model.layers:
            fully_shard(layer)
        fully_shard(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        scaling = DepthwiseScaling(model, optimizer)
        x, y = batch(n=6, seed=dist.get_rank())
        for part in range(parts):
            model.set_requires_gradient_sync(part == parts - 1)
            own = slice(part * 6 // parts, (part + 1) * 6 // parts)
            (F.cross_entropy(model(x[own]), y[own], reduction="sum") / 6).backward()
        optimizer.step()
        found.append(scaling.scales)
    return found


@pytest.mark.slow
def test_microbatches_that_fsdp2_has_not_reduced_yet_count():
    for whole, parts in run_processes(without_synchronisation, 2):
        torch.testing.assert_close(whole, parts, rtol=1e-12, atol=0)


def test_accelerate_saves_and_loads_both(tmp_path):
    from accelerate import Accelerator

    ends = []
    for folds in (False, True):
        accelerator = Accelerator(cpu=True)
        model, optimizer, scaling = make(folds, True)
        prepared, wrapped = accelerator.prepare(model, optimizer)
        accelerator.register_for_checkpointing(scaling)
        steps(prepared, wrapped, range(3))
        accelerator.save_state(str(tmp_path / str(folds)))
        steps(prepared, wrapped, range(3, 5))
        straight = [w.detach().clone() for w in model.parameters()]
        accelerator.load_state(str(tmp_path / str(folds)))
        steps(prepared, wrapped, range(3, 5))
        ends += [torch.equal(a, b) for a, b in zip(straight, model.parameters(), strict=True)]
        accelerator.free_memory()
    assert all(ends)
