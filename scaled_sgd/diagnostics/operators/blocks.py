"""One layer's part V_k of a vector in weight space, stored densely or in factors (theory §5).

Both are a slice of a flat vector. A block's *coefficients* represent V_k; inner products and Hessian
products need its *dual*: ⟨V, V'⟩ = coefficients · dual'.
"""

from typing import Protocol

import torch
from torch import Tensor

from scaled_sgd.parallel import Partition
from scaled_sgd.steps.signals import Signals


class Block(Protocol):
    """Layer k of a vector, on this process."""

    k: int
    size: int

    def h_product(self, s: Signals, dual: Tensor) -> Tensor:
        """This process's columns of h_{k−1} V_kᵀ, (samples, width(k)); may be a view."""
        ...

    def delta_product(self, s: Signals, dual: Tensor, Rdelta: Tensor, alpha: float, beta: float) -> Tensor:
        """This process's part of α Rδ_k W_k + β δ_k V_k, (samples, m_{k−1}), to be summed over processes."""
        ...

    def put_forward(self, s: Signals, out: Tensor, Rh: Tensor, scale: float, onto: float) -> None:
        """out ← onto · out + scale · δ_kᵀ Rh_{k−1} in coefficients; Rh (samples, m_{k−1}) is complete.

        Called before :meth:`put_backward`, and not for the first layer, where Rh_0 = 0.
        """
        ...

    def put_backward(self, s: Signals, out: Tensor, Rdelta: Tensor, scale: float, onto: float) -> None:
        """Add scale · Rδ_kᵀ h_{k−1} to the result of :meth:`put_forward`; Rδ holds this process's columns."""
        ...


class DenseBlock:
    """V_k itself: this process's rows. Coefficients and dual are equal."""

    def __init__(self, partition: Partition, k: int) -> None:
        self.k = k
        self.shape = (partition.width(k), partition.model.widths[k - 1])
        self.size = self.shape[0] * self.shape[1]

    def h_product(self, s: Signals, dual: Tensor) -> Tensor:
        """h_{k−1} V_kᵀ."""
        return s.h[self.k - 1] @ dual.view(self.shape).T

    def delta_product(self, s: Signals, dual: Tensor, Rdelta: Tensor, alpha: float, beta: float) -> Tensor:
        """α Rδ_k W_k + β δ_k V_k."""
        product = s.delta[self.k] @ dual.view(self.shape)
        return product.addmm_(Rdelta, s.partition.local(self.k), beta=beta, alpha=alpha)

    def put_forward(self, s: Signals, out: Tensor, Rh: Tensor, scale: float, onto: float) -> None:
        """δ_kᵀ Rh_{k−1}."""
        out.view(self.shape).addmm_(s.delta[self.k].T, Rh, beta=onto, alpha=scale)

    def put_backward(self, s: Signals, out: Tensor, Rdelta: Tensor, scale: float, onto: float) -> None:
        """Rδ_kᵀ h_{k−1}."""
        beta = onto if self.k == 1 else 1.0
        out.view(self.shape).addmm_(Rdelta.T, s.h[self.k - 1], beta=beta, alpha=scale)


class FactorBlock:
    """V_k = P_kᵀ h_{k−1} + δ_kᵀ Q_k with P (n, m_k) and Q (n, m_{k−1}), in this process's columns.  [ours]

    The dual is (X, Y) = (h V_kᵀ, δ V_k), so that ⟨V, V'⟩ = ⟨P, X'⟩ + ⟨Q, Y'⟩. With the Gram matrices
    K_h and K_δ of the batch, X = K_h P + (h Qᵀ) δ and Y = (δ Pᵀ) h + K_δ Q. Products with H need X
    and Y only and yield P' ∝ Rδ_k, Q' ∝ Rh_{k−1}. The first layer has Q = 0, since Rh_0 = 0.
    """

    def __init__(self, signals: Signals, k: int) -> None:
        partition = signals.partition
        self._lay_out(signals, k)
        self._h = partition.own(signals.h[k - 1], k - 1)
        self._delta = signals.delta[k]
        self.K_h = partition.sum(self._h @ self._h.T)
        self.K_delta = partition.sum(self._delta @ self._delta.T) if k > 1 else None

    def _lay_out(self, signals: Signals, k: int) -> None:
        partition = signals.partition
        self.k = k
        self._signals = signals
        self._p = (signals.samples, partition.width(k))
        self._q = (signals.samples, partition.width(k - 1) if k > 1 else 0)
        self.size = signals.samples * (self._p[1] + self._q[1])

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Views (P, Q) of coefficients, or (X, Y) of a dual."""
        p = self._p[0] * self._p[1]
        return flat[:p].view(self._p), flat[p:].view(self._q)

    def h_product(self, s: Signals, dual: Tensor) -> Tensor:
        """X."""
        return self.split(dual)[0]

    def delta_product(self, s: Signals, dual: Tensor, Rdelta: Tensor, alpha: float, beta: float) -> Tensor:
        """α Rδ_k W_k + β Y; this process has some columns of Y."""
        _, Y = self.split(dual)
        W = s.partition.local(self.k)
        if s.partition.ranks.size == 1:
            return torch.addmm(Y, Rdelta, W, beta=beta, alpha=alpha)
        product = (Rdelta @ W).mul_(alpha)
        s.partition.own(product, self.k - 1).add_(Y, alpha=beta)
        return product

    def put_forward(self, s: Signals, out: Tensor, Rh: Tensor, scale: float, onto: float) -> None:
        """Q = scale · Rh_{k−1}."""
        torch.mul(s.partition.own(Rh, self.k - 1), scale, out=self.split(out)[1])

    def put_backward(self, s: Signals, out: Tensor, Rdelta: Tensor, scale: float, onto: float) -> None:
        """P = scale · Rδ_k."""
        torch.mul(Rdelta, scale, out=self.split(out)[0])

    def cross(self, coefficients: Tensor, out: Tensor) -> None:
        """This process's parts of (h Qᵀ, δ Pᵀ) into ``out`` (2, n, n), to be summed over ranks."""
        P, Q = self.split(coefficients)
        if self.K_delta is not None:
            torch.mm(self._h, Q.T, out=out[0])
            torch.mm(self._delta, P.T, out=out[1])
        else:
            out.zero_()

    def dual(self, coefficients: Tensor, cross: Tensor, out: Tensor) -> None:
        """(X, Y) into ``out``, from the coefficients and the summed :meth:`cross`."""
        P, Q = self.split(coefficients)
        X, Y = self.split(out)
        torch.mm(self.K_h, P, out=X)
        if self.K_delta is not None:
            X.addmm_(cross[0], self._delta)
            torch.mm(self.K_delta, Q, out=Y)
            Y.addmm_(cross[1], self._h)

    def rows(self, coefficients: Tensor) -> Tensor:
        """This process's rows of V_k, (width(k), m_{k−1})."""
        P, Q = self.split(coefficients)
        V = P.T @ self._signals.h[self.k - 1]
        if self.K_delta is not None:
            V.addmm_(self._delta.T, self._signals.partition.gather(Q, self.k - 1))
        return V


def dense_cost(m_in: int, m_out: int, *, first: bool) -> int:
    """Multiplications per sample of a product for a dense V_k (m_out, m_in), without those with W_k."""
    return (2 if first else 4) * m_in * m_out


def factor_cost(m_in: int, m_out: int, n: int, *, first: bool) -> int:
    """The same for V_k in factors, including its dual."""
    return n * m_out if first else 3 * n * (m_in + m_out)
