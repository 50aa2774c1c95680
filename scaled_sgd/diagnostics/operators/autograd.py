"""Hessian products of any network through ``torch.func``, on one process or data-parallel replicas."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import check_targets, get_loss
from scaled_sgd.parallel import Ranks, is_sharded, unwrap
from scaled_sgd.steps.scales import given_scales


class GenericSpace:
    """Flat vectors over a network's trainable parameters, and Ξ^{1/2} H Ξ^{1/2} of a minibatch on them.

    H is linear, so the derivative of the gradient is recorded once and replayed for every product. The
    network runs in its current mode: call ``eval()`` first if it has dropout or batch statistics.
    Each process takes its own samples; the mean is over all samples, however unequally they are divided.

    Args:
        model: any module that maps x to outputs (n, m_l), with full parameters on every process.
        x: this process's samples.
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        scales: ξ, one number per trainable parameter tensor, or None.

    Raises:
        UserError: sharded parameters, a rule's name as scales, or invalid targets.
    """

    identity_dual = True

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, loss: str, scales: str | Tensor | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise UserError(f"model: {type(model).__name__} does not fit; allowed: a torch.nn.Module")
        if not isinstance(x, Tensor):
            raise UserError(f"x: {type(x).__name__} does not fit; allowed: a tensor of samples")
        network, self._ranks = unwrap(model), Ranks()
        name = type(network).__name__
        if isinstance(scales, str):
            raise UserError(f"scales: {scales!r} is not available for {name}; allowed: None or a tensor")
        trainable = {key: p.detach() for key, p in network.named_parameters() if p.requires_grad}
        if not trainable:
            raise UserError(f"model: {name} has nothing to train; allowed: trainable parameters")
        if any(is_sharded(p) or hasattr(p, "ds_id") for p in trainable.values()):
            raise UserError(
                f"model: sharded {name} is not available; allowed: HomogeneousMLP, or replicas of others"
            )
        self._shapes = [p.shape for p in trainable.values()]
        self._sizes = [p.numel() for p in trainable.values()]
        first = next(iter(trainable.values()))
        self.size, self.dtype, self.device = sum(self._sizes), first.dtype, first.device
        self.weight_bytes = self.size * first.element_size()
        xi = given_scales(scales, len(trainable), dtype=self.dtype, device=self.device)
        self._roots = torch.cat([r.expand(size) for r, size in zip(xi.sqrt(), self._sizes, strict=True)])
        total = sum(self._ranks.counts(len(x), self.device))
        if total == 0:
            raise UserError("x: no samples on any process; allowed: at least one")
        ell = get_loss(loss)

        def mean_loss(parameters: dict[str, Tensor]) -> Tensor:
            f = functional_call(network, parameters, (x,))
            check_targets(ell, y, len(x), f.shape[-1])
            return ell.value(f, y).sum() / total

        self._gradient: tuple[Tensor, ...] | None = None
        self._names = list(trainable)
        if len(x):
            recorded = vjp(grad(mean_loss), trainable)
            self._gradient, self._pullback = tuple(recorded[0].values()), recorded[1]

    def start(self, seed: int) -> Tensor:
        """The gradient plus a random vector of the same norm."""
        flat = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        if self._gradient is not None:
            flat = torch.cat([g.detach().reshape(-1) for g in self._gradient]) * self._roots
        flat = self._ranks.sum(flat)
        noise = self.random(seed)
        tiny = torch.finfo(self.dtype).tiny
        start: Tensor = flat / flat.norm().clamp(min=tiny) + noise / noise.norm()
        return start

    def random(self, seed: int) -> Tensor:
        """The same as :meth:`gaussian`."""
        return self.gaussian(seed)

    def gaussian(self, seed: int) -> Tensor:
        """Standard normal numbers, the same on every process."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.size, generator=generator, dtype=torch.float64).to(self.device, self.dtype)

    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """The product, into ``out``: one backward pass and one all-reduce."""
        if self._gradient is None:
            out.zero_()
        else:
            parts = torch.split(dual * self._roots, self._sizes)
            vectors = {
                key: part.view(shape)
                for key, part, shape in zip(self._names, parts, self._shapes, strict=True)
            }
            (products,) = self._pullback(vectors)
            torch.cat([products[key].detach().reshape(-1) for key in self._names], out=out)
        return self._ranks.sum(out).mul_(self._roots)

    def dual(self, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
        """The coefficients themselves: the inner product is Euclidean."""
        return coefficients

    def sum(self, t: Tensor) -> Tensor:
        """No-op: every process holds full vectors."""
        return t

    def expand(self, flat: Tensor) -> list[Tensor]:
        """A vector in the shapes of the trainable parameters."""
        return [
            part.view(shape) for part, shape in zip(torch.split(flat, self._sizes), self._shapes, strict=True)
        ]


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
) -> list[Tensor]:
    """H V for tensors V with the shapes of the trainable parameters.

    Raises:
        UserError: invalid arguments.
    """
    space = GenericSpace(model, x, y, loss=loss, scales=scales)
    check_vectors(vectors)
    shapes = [tuple(shape) for shape in space._shapes]
    if [tuple(v.shape) for v in vectors] != shapes:
        raise UserError(f"vectors: shapes {[tuple(v.shape) for v in vectors]} do not fit; allowed: {shapes}")
    flat = torch.cat([v.detach().reshape(-1) for v in vectors]).to(space.device, space.dtype)
    with torch.no_grad():
        return space.expand(space.multiply(flat, torch.empty_like(flat)))
