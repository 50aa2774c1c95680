"""The Hessian of a minibatch and its parts, preconditioned or not, on vectors over weights (theory §5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.diagnostics.operators.r_operator import Part, check_part
from scaled_sgd.diagnostics.operators.samples import SampleVectors, choose_vectors
from scaled_sgd.diagnostics.operators.weights import RowVectors, SpaceName
from scaled_sgd.steps.minibatch import Minibatch


@dataclass(frozen=True)
class Curvature:
    """Ξ^{1/2} C Ξ^{1/2}, with C the Hessian H, its Gauss–Newton part G, or H − G.

    Attributes:
        vectors: one-sided for G, else two-sided.
        part: which of the three.
        roots: √ξ of every layer.
    """

    vectors: RowVectors | SampleVectors
    part: Part
    roots: Sequence[float]

    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """Coefficients of the product with the vector whose dual is given, into ``out``."""
        return self.vectors.product(self.part, self.roots, dual, out)

    def start(self, seed: int) -> Tensor:
        """Ξ^{1/2} times the gradient, plus a random vector of about the gradient's norm, up to a factor."""
        return self.vectors.near_gradient(seed, self.roots)


def curvature(
    batch: Minibatch,
    xi: Tensor | None = None,
    *,
    part: Part = "hessian",
    space: SpaceName = "auto",
    layers: Sequence[int] | None = None,
) -> Curvature:
    """The operator on the vectors that make its products cheapest.

    Args:
        batch: the minibatch.
        xi: ξ (l,), or None for 1.
        part: H, G or H − G.
        space: how vectors are stored, see :class:`RowVectors`.
        layers: those whose block is meant, in ascending order; None: all.

    Raises:
        UserError: an unknown part or space.
    """
    check_part(part)
    vectors = choose_vectors(batch, space=space, both=part != "gauss_newton", layers=layers)
    return Curvature(vectors, part, _roots(xi, batch))


@torch.no_grad()
def drift_along_gradient(batch: Minibatch, xi: Tensor) -> Tensor:
    """‖Ξ^{1/2} H Ξ g‖ / ‖Ξ^{1/2} g‖ () of the minibatch; nan without gradient. Collective.

    That is ‖H ĝ‖ in the coordinates Ξ^{−1/2} θ of scaled steps (arXiv 2302.01952). One product with H.
    """
    operator = curvature(batch, xi.to(batch.partition.dtype))
    vectors = operator.vectors
    gradient = vectors.gradient(operator.roots)
    dual = vectors.dual(gradient)
    square = torch.dot(gradient, dual)
    product = operator.multiply(dual, torch.empty_like(gradient))
    squares = vectors.sum(torch.stack([torch.dot(product, vectors.dual(product)), square]))
    return (squares[0] / squares[1]).sqrt()


def roots_of(xi: Tensor) -> list[float]:
    """√ξ_k of every layer, from ξ (l,)."""
    roots: list[float] = xi.sqrt().tolist()
    return roots


def _roots(xi: Tensor | None, batch: Minibatch) -> list[float]:
    return [1.0] * batch.partition.depth if xi is None else roots_of(xi)


class HessianSpace(RowVectors):
    """Vectors over the weights of a network, and Ξ^{1/2} H Ξ^{1/2} of a minibatch on them."""

    def __init__(self, batch: Minibatch, xi: Tensor | None = None, *, space: SpaceName = "auto") -> None:
        super().__init__(batch, space=space)
        self._hessian = Curvature(self, "hessian", _roots(xi, batch))

    @property
    def vectors(self) -> RowVectors:
        """This space."""
        return self

    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """Coefficients of the product with the vector whose dual is given, into ``out``."""
        return self._hessian.multiply(dual, out)

    def start(self, seed: int) -> Tensor:
        """A start vector for Lanczos: the gradient plus a random vector of about the same norm."""
        return self._hessian.start(seed)
