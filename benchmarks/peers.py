"""Hessian products and eigenvalues by other installed libraries, on the same network."""

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

Product = Callable[[], object]


criterion = nn.CrossEntropyLoss()


def installed(name: str) -> bool:
    found = importlib.util.find_spec(name) is not None
    if not found:
        print(f"skipped: {name} is not installed")
    return found


def hessian_products(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Product]:
    """One product after set-up, by every available method."""
    values = {name: p.detach() for name, p in model.named_parameters()}
    vectors = {name: torch.randn_like(p) for name, p in values.items()}
    gradient = grad(lambda v: criterion(functional_call(model, v, (x,)), y))
    products: dict[str, Product] = {"jvp(grad)": lambda: jvp(gradient, (values,), (vectors,))}
    flat = torch.cat([v.reshape(-1) for v in vectors.values()])
    if installed("curvlinops"):
        from curvlinops import HessianLinearOperator

        linear = HessianLinearOperator(
            model, criterion, list(model.parameters()), [(x, y)], check_deterministic=False
        )
        products["curvlinops"] = lambda: linear @ flat
    if installed("hessian_eigenthings"):
        operator = eigenthings_operator(model, x, y)
        products["hessian-eigenthings"] = lambda: operator.matvec(flat)
    if installed("pyhessian"):
        from pyhessian import hessian, hessian_vector_product

        peer = hessian(model, criterion, data=(x, y), cuda=False)
        listed = list(vectors.values())
        products["PyHessian"] = lambda: hessian_vector_product(peer.gradsH, peer.params, listed)
    return products


def eigenthings_operator(model: nn.Module, x: Tensor, y: Tensor):
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(model, [(x, y)], supervised_loss(criterion))


def eigenthings_lanczos(model: nn.Module, x: Tensor, y: Tensor, *, tolerance: float) -> tuple[Product, int]:
    """hessian-eigenthings' Lanczos with the fewest steps that reach the residual; it has no stopping rule."""
    from hessian_eigenthings import lanczos

    def run(steps: int):
        return lanczos(
            eigenthings_operator(model, x, y), k=1, max_iter=steps, which="LA", tol=tolerance, seed=0
        )

    steps = next(steps for steps in range(3, 60) if bool(run(steps).converged.all()))
    return lambda: run(steps), steps


def nested_reverse(model: nn.Module, x: Tensor, y: Tensor) -> Product:
    """c0..c3 along minus the gradient by three reverse passes over one graph, gradient included."""
    parameters = list(model.parameters())

    def run() -> list[Tensor]:
        loss = criterion(model(x), y)
        G = torch.autograd.grad(loss, parameters, create_graph=True)
        u = [-g.detach() for g in G]
        first = sum((g * s).sum() for g, s in zip(G, u, strict=True))
        second = torch.autograd.grad(first, parameters, create_graph=True)
        quadratic = sum((g * s).sum() for g, s in zip(second, u, strict=True))
        third = torch.autograd.grad(quadratic, parameters)
        cubic = sum((g * s).sum() for g, s in zip(third, u, strict=True))
        return [loss, first, quadratic / 2, cubic / 6]

    return run
