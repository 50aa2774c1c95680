"""What algorithms know of an operator: the arithmetic of its vectors, and its product."""

from typing import Protocol

import torch
from torch import Tensor


class Vectors(Protocol):
    """Vectors on this process, in any storage.

    They are flat tensors of *coefficients*; their inner product is ⟨v, w⟩ = v · dual(w), summed over the
    processes.

    Attributes:
        size: length of a vector on this process.
        identity_dual: whether coefficients and duals are equal.
    """

    size: int
    identity_dual: bool

    @property
    def dtype(self) -> torch.dtype:
        """That of the computations."""
        ...

    @property
    def device(self) -> torch.device:
        """Where vectors are."""
        ...

    def dual(self, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
        """The dual of a vector: its coefficients if ``identity_dual``."""
        ...

    def random(self, seed: int) -> Tensor:
        """A random vector in the range of the operators on these vectors."""
        ...

    def sum(self, t: Tensor) -> Tensor:
        """Sum partial inner products over the processes, in place."""
        ...


class Operator(Protocol):
    """A symmetric operator on vectors."""

    @property
    def vectors(self) -> Vectors:
        """What it multiplies."""
        ...

    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """Coefficients of the operator applied to the vector whose dual is given, into ``out``."""
        ...


class WeightVectors(Vectors, Protocol):
    """Vectors over weights.

    Attributes:
        weight_bytes: size of these weights, over all processes.
    """

    weight_bytes: int

    def expand(self, flat: Tensor) -> list[Tensor]:
        """A vector in weight space, one tensor per layer."""
        ...


class WeightOperator(Operator, Protocol):
    """A curvature matrix of a minibatch over weights."""

    @property
    def vectors(self) -> WeightVectors:
        """What it multiplies."""
        ...

    def start(self, seed: int) -> Tensor:
        """A start vector for Lanczos: the gradient plus a random vector of about the same norm."""
        ...
