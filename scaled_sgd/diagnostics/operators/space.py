"""The interface between algorithms and operators, for any storage of vectors."""

from typing import Protocol

import torch
from torch import Tensor


class Space(Protocol):
    """Vectors on this process, and a symmetric operator on them.

    Vectors are flat tensors of *coefficients*; their inner product is ⟨v, w⟩ = v · dual(w), summed over the
    processes.

    Attributes:
        size: length of a vector on this process.
        identity_dual: whether coefficients and duals are equal.
    """

    size: int
    dtype: torch.dtype
    device: torch.device
    identity_dual: bool

    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """Coefficients of the operator applied to the vector whose dual is given."""
        ...

    def dual(self, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
        """The dual of a vector: its coefficients if ``identity_dual``."""
        ...

    def random(self, seed: int) -> Tensor:
        """A random vector in the operator's range."""
        ...

    def sum(self, t: Tensor) -> Tensor:
        """Sum partial inner products over the processes, in place."""
        ...


class HessianOperator(Space, Protocol):
    """The Hessian of a minibatch, or Ξ^{1/2} H Ξ^{1/2}.

    Attributes:
        weight_bytes: size of all weights, over all processes.
    """

    weight_bytes: int

    def start(self, seed: int) -> Tensor:
        """A start vector for Lanczos: the gradient plus a random vector of about the same norm."""
        ...

    def expand(self, flat: Tensor) -> list[Tensor]:
        """A vector in weight space, one tensor per layer."""
        ...
