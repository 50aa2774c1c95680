"""Hessian products of any network through ``torch.func``, on one process or data-parallel replicas."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import grad, vjp

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.operators.generic import GenericLoss, GenericVectors
from scaled_sgd.diagnostics.operators.r_operator import Part, check_part
from scaled_sgd.steps.scales import given_scales

Product = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class GenericCurvature:
    """Ξ^{1/2} C Ξ^{1/2} of a minibatch, on vectors over a network's trainable parameters.

    C is the Hessian H, its Gauss–Newton part G = Jᵀ ℓ'' J with the derivative J of all outputs, or H − G.
    H and J are linear, so derivatives are recorded once and replayed for every product. The
    network runs in its current mode: call ``eval()`` first if it has dropout or batch statistics.
    Each process takes its own samples; the mean is over all samples, however unequally they are divided.

    Args:
        model: any module that maps x to outputs (n, m_l), with full parameters on every process.
        x: this process's samples.
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        scales: ξ, one number per trainable parameter tensor, or None.
        part: C.
        only: names of the parameter tensors whose block is meant; None: all.

    Attributes:
        problem: the loss of the minibatch.

    Raises:
        UserError: sharded parameters, a rule's name as scales, or invalid targets.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: str,
        scales: str | Tensor | None = None,
        part: Part = "hessian",
        only: Sequence[str] | None = None,
    ) -> None:
        check_part(part)
        self.problem = problem = GenericLoss(model, x, y, loss=loss, only=only)
        self.vectors = vectors = problem.vectors
        xi = generic_scales(vectors, scales)
        self._roots = torch.cat([r.expand(size) for r, size in zip(xi.sqrt(), vectors.sizes, strict=True)])
        self._gradient: tuple[Tensor, ...] | None = None
        self._terms: list[tuple[float, Product]] = []
        if not len(x):
            return
        gradient = vjp(grad(problem.share), vectors.parameters)
        self._gradient = tuple(gradient[0].values())
        if part != "gauss_newton":
            self._terms.append((1.0, lambda v: gradient[1](v)[0]))
        if part != "hessian":
            outputs = vjp(problem.outputs, vectors.parameters)
            f, pull = outputs[0], outputs[1]
            push = vjp(lambda u: pull(u)[0], torch.zeros_like(f))[1]
            sign = 1.0 if part == "gauss_newton" else -1.0
            ell, total = problem.ell, problem.total
            self._terms.append((sign, lambda v: pull(ell.hessian_product(f, push(v)[0]) / total)[0]))

    def start(self, seed: int) -> Tensor:
        """The gradient plus a random vector of the same norm."""
        vectors = self.vectors
        flat = torch.zeros(vectors.size, dtype=vectors.dtype, device=vectors.device)
        if self._gradient is not None:
            flat = torch.cat([g.detach().reshape(-1) for g in self._gradient]) * self._roots
        flat = vectors.ranks.sum(flat)
        noise = vectors.random(seed)
        tiny = torch.finfo(vectors.dtype).tiny
        start: Tensor = flat / flat.norm().clamp(min=tiny) + noise / noise.norm()
        return start

    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """The product, into ``out``: one backward pass for H, two for G, and one all-reduce."""
        out.zero_()
        for sign, product in self._terms:
            products = product(self.vectors.named(dual * self._roots))
            parts = [products[key].detach().reshape(-1) for key in self.vectors.parameters]
            out.add_(torch.cat(parts), alpha=sign)
        return self.vectors.ranks.sum(out).mul_(self._roots)


def generic_product(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    vectors: Sequence[Tensor],
    *,
    loss: str,
    scales: str | Tensor | None = None,
    part: Part = "hessian",
) -> list[Tensor]:
    """C V for tensors V with the shapes of the trainable parameters.

    Raises:
        UserError: invalid arguments.
    """
    operator = GenericCurvature(model, x, y, loss=loss, scales=scales, part=part)
    flat = operator.vectors.flat(vectors, "vectors")
    with torch.no_grad():
        return operator.vectors.expand(operator.multiply(flat, torch.empty_like(flat)))


def generic_scales(vectors: GenericVectors, scales: str | Tensor | None) -> Tensor:
    """ξ, one number per trainable parameter tensor.

    Raises:
        UserError: a rule's name, or numbers that do not fit.
    """
    if isinstance(scales, str):
        name = type(vectors.network).__name__
        raise UserError(f"scales: {scales!r} is not available for {name}; allowed: None or a tensor")
    return given_scales(scales, len(vectors.sizes), dtype=vectors.dtype, device=vectors.device)
