"""Backward passes through one forward pass add up; a layer is measured where it ends."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaled_sgd import DepthwiseScaling
from scaled_sgd.core.errors import UserError
from tests.steps.test_hook import batch, network


@pytest.mark.parametrize("backward_passes", [2, 3])
def test_losses_of_one_forward_pass_give_the_scales_of_their_sum(backward_passes):
    x, y = batch()
    single, several = network(), network()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.3) for model in (single, several)]
    scalings = [DepthwiseScaling(m, o) for m, o in zip((single, several), optimizers, strict=True)]
    f = single(x)
    sum(F.cross_entropy(f, (y + k) % 3) * (k + 1) for k in range(backward_passes)).backward()
    f = several(x)
    for k in range(backward_passes):
        last = k == backward_passes - 1
        (F.cross_entropy(f, (y + k) % 3) * (k + 1)).backward(retain_graph=not last)
        torch.autograd.grad(several(x).sum(), list(several.parameters()), retain_graph=True)
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(scalings[1].scales, scalings[0].scales, rtol=1e-10, atol=0)


@pytest.mark.parametrize("set_to_none", [False, True])
def test_a_forward_pass_is_not_used_again_after_its_gradients_were_cleared(set_to_none):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    DepthwiseScaling(model, optimizer)
    x, y = batch()
    loss = F.cross_entropy(model(x), y)
    loss.backward(retain_graph=True)
    model.zero_grad(set_to_none=set_to_none)
    loss.backward()
    with pytest.raises(UserError, match="whose first gradients were cleared; allowed: another forward pass"):
        optimizer.step()


@pytest.mark.parametrize("before", [False, True])
def test_a_hook_that_changes_a_layers_output_counts_as_what_follows_the_layer(before):
    x, y = batch()
    scales = []
    for follows in (False, True):
        torch.manual_seed(0)
        layers = [nn.Linear(6, 5, bias=False), nn.Identity(), nn.Tanh(), nn.Linear(5, 3, bias=False)]
        model = nn.Sequential(*layers).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        place = model[1] if follows else model[0]
        if before:
            place.register_forward_hook(lambda _module, _args, z: 3 * z)
        scaling = DepthwiseScaling(model, optimizer)
        if not before:
            place.register_forward_hook(lambda _module, _args, z: 3 * z)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        scales.append(scaling.scales)
    torch.testing.assert_close(*scales, rtol=1e-12, atol=0)
