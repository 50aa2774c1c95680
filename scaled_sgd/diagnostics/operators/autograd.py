"""Hessian products of any network through ``torch.func``, on one process or data-parallel replicas."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import check_targets, get_loss
from scaled_sgd.diagnostics.operators.r_operator import Part, check_part
from scaled_sgd.parallel import Ranks, is_sharded, unwrap
from scaled_sgd.steps.scales import given_scales

Product = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class GenericVectors:
    """Flat vectors over a network's trainable parameters, in full on every process.

    Args:
        model: any module with full parameters on every process.
        only: index of the one trainable parameter tensor that vectors have; None: all.

    Raises:
        UserError: no trainable parameters, or sharded ones.
    """

    identity_dual = True

    def __init__(self, model: nn.Module, *, only: int | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise UserError(f"model: {type(model).__name__} does not fit; allowed: a torch.nn.Module")
        self.network, self.ranks = unwrap(model), Ranks()
        name = type(self.network).__name__
        self.parameters = {key: p.detach() for key, p in self.network.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise UserError(f"model: {name} has nothing to train; allowed: trainable parameters")
        if any(is_sharded(p) or hasattr(p, "ds_id") for p in self.parameters.values()):
            raise UserError(
                f"model: sharded {name} is not available; allowed: HomogeneousMLP, or replicas of others"
            )
        if only is not None:
            self.parameters = dict([list(self.parameters.items())[only]])
        self.shapes = [p.shape for p in self.parameters.values()]
        self.sizes = [p.numel() for p in self.parameters.values()]
        first = next(iter(self.parameters.values()))
        self.size, self.dtype, self.device = sum(self.sizes), first.dtype, first.device
        self.weight_bytes = self.size * first.element_size()

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """A vector by the names of the parameters."""
        return dict(zip(self.parameters, self.expand(flat), strict=True))

    def random(self, seed: int) -> Tensor:
        """The same as :meth:`gaussian`."""
        return self.gaussian(seed)

    def gaussian(self, seed: int) -> Tensor:
        """Standard normal numbers, the same on every process."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.size, generator=generator, dtype=torch.float64).to(self.device, self.dtype)

    def dual(self, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
        """The coefficients themselves: the inner product is Euclidean."""
        return coefficients

    def sum(self, t: Tensor) -> Tensor:
        """No-op: every process holds full vectors."""
        return t

    def expand(self, flat: Tensor) -> list[Tensor]:
        """A vector in the shapes of the trainable parameters."""
        return [
            part.view(shape) for part, shape in zip(torch.split(flat, self.sizes), self.shapes, strict=True)
        ]


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
        only: index of the one parameter tensor whose block is meant; None: all.

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
        only: int | None = None,
    ) -> None:
        check_part(part)
        self.vectors = vectors = GenericVectors(model, only=only)
        network, name = vectors.network, type(vectors.network).__name__
        if not isinstance(x, Tensor):
            raise UserError(f"x: {type(x).__name__} does not fit; allowed: a tensor of samples")
        if isinstance(scales, str):
            raise UserError(f"scales: {scales!r} is not available for {name}; allowed: None or a tensor")
        xi = given_scales(scales, len(vectors.sizes), dtype=vectors.dtype, device=vectors.device)
        self._roots = torch.cat([r.expand(size) for r, size in zip(xi.sqrt(), vectors.sizes, strict=True)])
        total = sum(vectors.ranks.counts(len(x), vectors.device))
        if total == 0:
            raise UserError("x: no samples on any process; allowed: at least one")
        ell = get_loss(loss)

        def mean_loss(parameters: dict[str, Tensor]) -> Tensor:
            f = functional_call(network, parameters, (x,))
            check_targets(ell, y, len(x), f.shape[-1])
            return ell.value(f, y).sum() / total

        self._gradient: tuple[Tensor, ...] | None = None
        self._terms: list[tuple[float, Product]] = []
        if not len(x):
            return
        gradient = vjp(grad(mean_loss), vectors.parameters)
        self._gradient = tuple(gradient[0].values())
        if part != "gauss_newton":
            self._terms.append((1.0, lambda v: gradient[1](v)[0]))
        if part != "hessian":
            outputs = vjp(lambda parameters: functional_call(network, parameters, (x,)), vectors.parameters)
            f, pull = outputs[0], outputs[1]
            push = vjp(lambda u: pull(u)[0], torch.zeros_like(f))[1]
            sign = 1.0 if part == "gauss_newton" else -1.0
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


def check_vectors(vectors: object, name: str = "vectors") -> None:
    """Refuse anything but a sequence of tensors; ``name`` is the argument in messages.

    Raises:
        UserError: it is something else.
    """
    if isinstance(vectors, Sequence):
        strange = [vector for vector in vectors if not isinstance(vector, Tensor)]
    else:
        strange = [vectors]
    if strange:
        kind = type(strange[0]).__name__
        raise UserError(f"{name}: {kind} does not fit; allowed: a list of tensors, one a layer")


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
    space = operator.vectors
    check_vectors(vectors)
    shapes = [tuple(shape) for shape in space.shapes]
    if [tuple(v.shape) for v in vectors] != shapes:
        raise UserError(f"vectors: shapes {[tuple(v.shape) for v in vectors]} do not fit; allowed: {shapes}")
    flat = torch.cat([v.detach().reshape(-1) for v in vectors]).to(space.device, space.dtype)
    with torch.no_grad():
        return space.expand(operator.multiply(flat, torch.empty_like(flat)))
