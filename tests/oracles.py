"""float64 references by automatic differentiation, for networks small enough to form everything."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian

from scaled_sgd.core.losses import Loss, get_loss
from scaled_sgd.core.network import HomogeneousMLP


@dataclass(frozen=True)
class Problem:
    """A network with a minibatch."""

    model: HomogeneousMLP
    x: Tensor
    y: Tensor
    loss: str


def make_problem(
    *,
    samples: int = 6,
    inputs: int = 5,
    outputs: int = 3,
    depth: int = 4,
    base_width: int = 3,
    width_exponent: float = 1.0,
    activation: str | tuple[float, float] = "relu",
    parameterization: str = "ntp",
    output_scale: float = 1.0,
    rank: int | None = None,
    loss: str = "cross_entropy",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """A random problem that depends on its arguments alone."""
    generator = torch.Generator().manual_seed(seed)
    model = HomogeneousMLP(
        inputs,
        outputs,
        depth=depth,
        base_width=base_width,
        width_exponent=width_exponent,
        activation=activation,
        parameterization=parameterization,
        output_scale=output_scale,
        rank=rank,
        seed=seed,
        dtype=dtype,
    )
    x = torch.randn(samples, inputs, generator=generator, dtype=dtype)
    if loss == "cross_entropy":
        y = torch.randint(outputs, (samples,), generator=generator)
    else:
        y = torch.randn(samples, outputs, generator=generator, dtype=dtype)
    return Problem(model, x, y, loss)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def mean_loss(problem: Problem, values: dict[str, Tensor]) -> Tensor:
    f = functional_call(problem.model, values, (problem.x,))
    return get_loss(problem.loss).value(f, problem.y).mean()


def gradients(problem: Problem) -> list[Tensor]:
    return list(grad(lambda values: mean_loss(problem, values))(parameters(problem.model)).values())


def signals(problem: Problem) -> tuple[list[Tensor], list[Tensor]]:
    """h_0..h_{l−1} and δ_1..δ_l of the sum of losses, as the layers of a forward pass take and give them."""
    h, z = [], []

    def keep(_: nn.Module, taken: tuple[Tensor], given: Tensor) -> None:
        h.append(taken[0].detach())
        z.append(given)

    hooks = [layer.register_forward_hook(keep) for layer in problem.model.scaled_layers]
    whole = get_loss(problem.loss).value(problem.model(problem.x), problem.y).sum()
    for hook in hooks:
        hook.remove()
    return h, list(torch.autograd.grad(whole, z))


def flat_parameters(model: nn.Module) -> Tensor:
    return torch.cat([p.reshape(-1) for p in parameters(model).values()])


def flat_loss(problem: Problem, flat: Tensor) -> Tensor:
    values = parameters(problem.model)
    parts = flat.split([p.numel() for p in values.values()])
    return mean_loss(
        problem, {name: part.view_as(p) for (name, p), part in zip(values.items(), parts, strict=True)}
    )


def full_hessian(problem: Problem, xi: Tensor | None = None) -> Tensor:
    """Ξ^{1/2} H Ξ^{1/2}, all of it."""
    H: Tensor = hessian(lambda flat: flat_loss(problem, flat))(flat_parameters(problem.model))
    return _preconditioned(problem, H, xi)


def full_gauss_newton(problem: Problem, xi: Tensor | None = None) -> Tensor:
    """Ξ^{1/2} G Ξ^{1/2} with G = mean Jᵀ ℓ'' J, all of it."""
    f, J = problem.model(problem.x).detach(), output_jacobian(problem)
    n, c = f.shape
    ell = get_loss(problem.loss)
    pairs = zip(f, problem.y, strict=True)
    curvature = torch.stack([hessian(partial(_loss_of, ell, y))(g) for g, y in pairs])
    G = torch.einsum("icp,icd,idq->pq", J.view(n, c, -1), curvature, J.view(n, c, -1)) / n
    return _preconditioned(problem, G, xi)


def _loss_of(ell: Loss, y: Tensor, f: Tensor) -> Tensor:
    return ell.value(f[None], y[None]).sum()


def _preconditioned(problem: Problem, H: Tensor, xi: Tensor | None) -> Tensor:
    if xi is None:
        return H
    roots = torch.cat(
        [r.expand(p.numel()) for r, p in zip(xi.sqrt(), problem.model.parameters(), strict=True)]
    )
    return roots[:, None] * H * roots


def taylor_series(problem: Problem, xi: Tensor) -> list[Tensor]:
    """c0..c3 by nested reverse-mode differentiation along u = −ξG."""
    values = parameters(problem.model)
    u = [-s * G for s, G in zip(xi, gradients(problem), strict=True)]

    def along(eta: Tensor) -> Tensor:
        moved = {name: p + eta * step for (name, p), step in zip(values.items(), u, strict=True)}
        return mean_loss(problem, moved)

    first, zero = grad(along), torch.zeros((), dtype=torch.float64)
    return [along(zero), first(zero), grad(first)(zero) / 2, grad(grad(first))(zero) / 6]


def output_jacobian(problem: Problem) -> Tensor:
    """J (n · m_l, all parameters), outputs fastest."""
    values = parameters(problem.model)
    J = torch.func.jacrev(lambda v: functional_call(problem.model, v, (problem.x,)))(values)
    return torch.cat([j.flatten(2) for j in J.values()], dim=2).flatten(0, 1)


def to_flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


class Foreign(nn.Module):
    """A HomogeneousMLP as a part of another module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)
