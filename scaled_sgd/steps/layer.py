"""A layer's gradient as factors (δ_k, h_{k−1}) or rows, and products that directions ask for (theory §3b)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scaled_sgd.core.products import matmul
from scaled_sgd.steps.networks import Networks
from scaled_sgd.steps.statistics import Gradient, Statistics, gradient_square, gram, square_norms


@dataclass
class Layer:
    """Layer k's δ_kᵀ h_{k−1} = G_k · n/α_k, as factors or, if ``gradient`` is given, as a matrix.

    Attributes:
        networks: the networks and this process's part of them.
        k: from 1.
        h: h_{k−1} (…, n, m_{k−1}), complete on every process; None if only the matrix is known.
        delta: this process's columns of δ_k, likewise.
        gradient: this process's rows of the matrix.
        whole: the factors cover the global minibatch.
    """

    networks: Networks
    k: int
    h: Tensor | None
    delta: Tensor | None
    gradient: Tensor | None = None
    whole: bool = True

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """δ_k and h_{k−1}."""
        assert self.delta is not None
        assert self.h is not None
        return self.delta, self.h

    @cached_property
    def rows(self) -> Tensor:
        """This process's rows of δ_kᵀ h_{k−1}."""
        return self.gradient if self.gradient is not None else _product(*self.factors)

    @cached_property
    def _grams(self) -> tuple[Tensor, Tensor]:
        delta, h = self.factors
        return self.networks.sum(gram(delta)), gram(h)

    def square(self) -> Tensor:
        """This process's part of ‖δ_kᵀ h_{k−1}‖_F² (…), float64, from products that exist if any do."""
        if "_grams" in vars(self):
            return torch.mul(*self._grams).sum((-2, -1), dtype=torch.float64) / self.networks.processes
        if self.gradient is not None or "rows" in vars(self):
            return square_norms([self.rows])[..., 0]
        delta, h = self.factors
        return gradient_square(h, delta)

    def grams(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """A = δ_k δ_kᵀ and B = h_{k−1} h_{k−1}ᵀ, computed in ``dtype``. Collective if weights are sharded."""
        if dtype is None:
            return self._grams
        delta, h = (t.to(dtype) for t in self.factors)
        return self.networks.sum(gram(delta)), gram(h)

    def smaller_side(self, dtype: torch.dtype | None = None) -> Gradient:
        """δ_kᵀ h_{k−1} through the smaller of its sides, in ``dtype``. Collective if weights are sharded.

        Processes that hold rows exchange at most n² numbers if that side is smaller than n.
        """
        networks, k = self.networks, self.k
        m_in, m_out = networks.widths[k - 1 : k + 1]
        if m_in <= m_out:
            own = self._product(dtype)
            return Gradient(networks.sum(gram(own.transpose(-2, -1))), lambda M: own @ M)
        if self.gradient is not None:
            whole = networks.gather(self.gradient.transpose(-2, -1), k)
            G = whole.transpose(-2, -1).to(dtype or whole.dtype)
        else:
            G = self._product(dtype, whole=True)
        return Gradient(gram(G), lambda M: networks.own(M, k).transpose(-2, -1) @ G)

    def _product(self, dtype: torch.dtype | None, *, whole: bool = False) -> Tensor:
        """This process's rows, or all, computed in ``dtype``."""
        if self.gradient is not None or (dtype is None and not whole):
            return self.rows.to(dtype or self.rows.dtype)
        own, h = self.factors
        delta = self.networks.gather(own, self.k) if whole else own
        if delta is own and dtype is None:
            return self.rows
        return _product(*(t.to(dtype or t.dtype) for t in (delta, h)))


def _product(delta: Tensor, h: Tensor) -> Tensor:
    return matmul(delta.transpose(-2, -1), h)


def statistics_of(
    layers: Callable[[], Sequence[Layer]],
    networks: Networks,
    span: slice,
    n: int,
    F: Tensor,
    D: Tensor,
    *,
    R: Tensor | None = None,
    dtype: torch.dtype,
    whole: bool,
) -> Statistics:
    """Statistics of successive layers over the global minibatch.

    Args:
        layers: gives the layers when a direction asks for more than F, D and R.
        networks: the networks.
        span: indices of the layers among 0..l−1.
        n: number of samples.
        F: F_k (…, layers).
        D: D_k (…, layers).
        R: (…); D_l if None.
        dtype: that of the signals.
        whole: whether every layer has the factors of the global minibatch.
    """
    alpha, omega = (entries(span, t) for t in (networks.alpha, networks.omega))

    def squares() -> Tensor:
        part = torch.stack([layer.square() for layer in layers()], -1)
        return networks.sum(part) * (alpha / n).square()

    return Statistics(
        span,
        networks.depth,
        F,
        D,
        D[..., -1] if R is None else R,
        omega,
        [(n, networks.widths[k + 1], networks.widths[k]) for k in range(span.start, span.stop)],
        dtype,
        squares,
        (lambda i, dtype=None: layers()[i].grams(dtype)) if whole else None,
        lambda i, dtype=None: layers()[i].smaller_side(dtype),
    )


def entries(span: slice, t: Tensor) -> Tensor:
    """The entries of ``t`` (…, l) for the layers of ``span``, a view."""
    return t if span.stop - span.start == t.shape[-1] else t[..., span]
