"""Formulas are used for what they compute; what runs something else takes the generic path or is refused."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from torch.nn.utils.parametrize import register_parametrization

from scaled_sgd import (
    DepthwiseScaling,
    HomogeneousMLP,
    gradient_soft_ranks,
    sharpness,
    taylor_coefficients,
)
from scaled_sgd.core.activations import Activation
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.piecewise_linear import LINEAR
from scaled_sgd.diagnostics import hessian_trace, hessian_vector_product
from scaled_sgd.diagnostics.hessian import is_homogeneous


class Skip(HomogeneousMLP):
    def forward(self, x: Tensor) -> Tensor:
        return 5 * super().forward(x) + x[:, :3]


class Curved(HomogeneousMLP):
    def apply_activation(self, z: Tensor) -> Tensor:
        return torch.tanh(z)


class Straight(HomogeneousMLP):
    def activation_at(self, k: int) -> Activation:
        return LINEAR


def network(kind: type[HomogeneousMLP] = HomogeneousMLP) -> HomogeneousMLP:
    return kind(6, 3, depth=3, base_width=2, seed=0, dtype=torch.float64)


def hooked() -> HomogeneousMLP:
    model = network()
    model.layers[0].register_forward_hook(lambda _module, _args, z: 3 * z)
    return model


def parametrized() -> HomogeneousMLP:
    model = network()
    register_parametrization(model.layers[1], "weight", nn.Tanh())
    return model


def pruned() -> HomogeneousMLP:
    model = network()
    prune.random_unstructured(model.layers[1], "weight", 0.5)
    return model


def replaced() -> HomogeneousMLP:
    model = network()
    model.layers[2] = nn.Linear(model.widths[2], 3, dtype=torch.float64)
    return model


def patched() -> HomogeneousMLP:
    model = network()
    own = model.forward
    model.forward = lambda x: own(x) ** 2  # type: ignore[method-assign]
    return model


FOREIGN = {
    "Skip with a forward pass of its own": lambda: network(Skip),
    "Curved with a forward pass of its own": lambda: network(Curved),
    "Straight with a forward pass of its own": lambda: network(Straight),
    "HomogeneousMLP with a forward hook": hooked,
    "whose layer 2 has no weight of its own": parametrized,
    "layer 2 has no weight of its own": pruned,
    "HomogeneousMLP with other layers": replaced,
    "HomogeneousMLP with another forward pass": patched,
}


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (20,), generator=generator)


def dense_hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    names = [name for name, _ in model.named_parameters()]
    values = [p.detach() for p in model.parameters()]

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in values])
        given = {name: part.view_as(p) for name, part, p in zip(names, parts, values, strict=True)}
        return cross_entropy(torch.func.functional_call(model, given, (x,)), y)

    flat = torch.cat([p.flatten() for p in values])
    return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_what_runs_something_else_takes_the_generic_path(make) -> None:  # type: ignore[no-untyped-def]
    model, (x, y) = make(), samples()
    H = dense_hessian(model, x, y)
    top = sharpness(model, x, y, loss="cross_entropy", tolerance=1e-9, max_iterations=500)
    torch.testing.assert_close(top.values[0], torch.linalg.eigvalsh(H)[-1], rtol=1e-7, atol=0)
    vectors = [torch.ones_like(p) for p in model.parameters()]
    product = hessian_vector_product(model, x, y, vectors, loss="cross_entropy")
    torch.testing.assert_close(torch.cat([p.flatten() for p in product]), H.sum(1), rtol=1e-9, atol=1e-11)
    t = taylor_coefficients(model, x, y, loss="cross_entropy", direction=vectors)
    assert t.c2 is not None
    torch.testing.assert_close(t.c2, H.sum() / 2, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("message", "make"), FOREIGN.items(), ids=FOREIGN)
def test_what_only_formulas_give_is_refused_for_others(message, make) -> None:  # type: ignore[no-untyped-def]
    model, (x, y) = make(), samples()
    with pytest.raises(UserError, match=f"{message}.* is not available here; allowed: HomogeneousMLP"):
        gradient_soft_ranks(model, x, y, loss="cross_entropy")


@pytest.mark.usefixtures("fresh_world")
def test_the_family_is_recognised_under_the_hook_and_mixed_precision() -> None:
    from accelerate import Accelerator

    model = network()
    DepthwiseScaling(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert is_homogeneous(model)
    assert is_homogeneous(torch.compile(model, backend="eager"))  # type: ignore[arg-type]
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    assert is_homogeneous(accelerator.prepare(network()))
    accelerator.free_memory()


def test_diagnostics_leave_autocast() -> None:
    x, y = samples()
    tanh = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    for model in (network().float(), tanh):
        for call in (sharpness, hessian_trace, taylor_coefficients):
            plain = call(model, x.float(), y, loss="cross_entropy")
            with torch.autocast("cpu", torch.bfloat16):
                inside = call(model, x.float(), y, loss="cross_entropy")
            name = {sharpness: "values", hessian_trace: "value", taylor_coefficients: "c3"}[call]
            assert torch.equal(torch.as_tensor(getattr(plain, name)), torch.as_tensor(getattr(inside, name)))
