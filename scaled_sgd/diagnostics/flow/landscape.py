"""What the flows know of a loss: its value and first three derivatives at a point."""

from collections.abc import Callable
from functools import cached_property
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor

from scaled_sgd.core.losses import Loss
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.diagnostics.eigenpairs import sharpness_of
from scaled_sgd.diagnostics.operators.curvature import curvature
from scaled_sgd.diagnostics.operators.third_derivative import eigenvalue_gradient
from scaled_sgd.steps.minibatch import Minibatch, gradient_rows


class Point(Protocol):
    """A loss at weights w (N,)."""

    @property
    def loss(self) -> float:
        """L(w)."""
        ...

    @property
    def gradient(self) -> Tensor:
        """∇L(w), (N,)."""
        ...

    def eigenpairs(self, k: int, start: Tensor | None) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues of H(w), best first, and eigenvectors (k, N); ``start`` is near them."""
        ...

    def third(self, U: Tensor) -> Tensor:
        """D³L[u_i, u_j, ·] of all pairs of rows of U (k, N), (k, k, N)."""
        ...


Landscape = Callable[[Tensor], Point]
"""The point at w. It is valid until the next one is asked for."""


class NetworkLandscape:
    """The loss of a network on fixed samples, in the network's precision. Its weights become those asked for.

    Args:
        network: the network.
        x: samples (n, m_0).
        y: targets, in the form that the loss takes.
        loss: ``cross_entropy`` or ``mse``, or a loss.
        chunk_size: largest number of samples at a time.
        tolerance: relative residual of eigenvalues.
    """

    def __init__(
        self,
        network: HomogeneousMLP,
        x: Tensor,
        y: Tensor,
        *,
        loss: str | Loss,
        chunk_size: int | None = None,
        tolerance: float = 1e-7,
    ) -> None:
        self._network, self._data, self._loss = network, (x, y), loss
        self._chunk_size, self._tolerance = chunk_size, tolerance

    @property
    def weights(self) -> Tensor:
        """The network's weights, (N,)."""
        return torch.cat([layer.weight.detach().reshape(-1) for layer in self._network.scaled_layers])

    @torch.no_grad()
    def __call__(self, w: Tensor) -> "NetworkPoint":
        """The point at w."""
        layers = self._network.scaled_layers
        for layer, part in zip(layers, torch.split(w, [p.weight.numel() for p in layers]), strict=True):
            layer.weight.copy_(part.view_as(layer.weight))
        batch = Minibatch(self._network, *self._data, loss=self._loss, chunk_size=self._chunk_size)
        return NetworkPoint(batch, self._tolerance)


class NetworkPoint:
    """A :class:`Point` of a network, from the signals of a minibatch."""

    def __init__(self, batch: Minibatch, tolerance: float) -> None:
        self._batch, self._tolerance = batch, tolerance

    @cached_property
    def loss(self) -> float:
        """L(w)."""
        sums = [s.loss.value(s.f, s.y).sum() for s in self._batch]
        return float(torch.stack(sums).sum()) / self._batch.total

    @cached_property
    def gradient(self) -> Tensor:
        """∇L(w)."""
        return torch.cat([rows.reshape(-1) for rows in gradient_rows(self._batch).values()])

    def eigenpairs(self, k: int, start: Tensor | None) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues of H(w) by Lanczos."""
        found = sharpness_of(
            curvature(self._batch, space="dense"),
            k=k,
            tolerance=self._tolerance,
            max_iterations=1000,
            basis=4 * k + 20,
            warm_start=start,
        )
        return found.values, found.vectors

    def third(self, U: Tensor) -> Tensor:
        """D³L[u_i, u_j, ·], by polarisation: ½(T[u_i + u_j] − T[u_i] − T[u_j]) with T[u] = D³L[u, u, ·]."""
        found = U.new_empty(len(U), *U.shape)
        for i, u in enumerate(U):
            found[i, i] = self._twice(u)
        for i, j in combinations(range(len(U)), 2):
            mixed = self._twice(U[i] + U[j]).sub_(found[i, i]).sub_(found[j, j])
            found[i, j] = found[j, i] = mixed.mul_(0.5)
        return found

    def _twice(self, u: Tensor) -> Tensor:
        shapes = [layer.weight.shape for layer in self._batch.partition.layers]
        parts = torch.split(u, [shape.numel() for shape in shapes])
        rows = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        return torch.cat([found.reshape(-1) for found in eigenvalue_gradient(self._batch, rows)])
