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
    """Layer k of a vector, on this process.

    Attributes:
        k: from 1.
        size: length of its slice.
        both: whether vectors have terms δ_kᵀ Q_k beside P_kᵀ h_{k−1}: two-sided, else one-sided.
    """

    k: int
    size: int
    both: bool

    def h_product(self, s: Signals, dual: Tensor) -> Tensor:
        """This process's columns of h_{k−1} V_kᵀ, (samples, width(k)); may be a view."""
        ...

    def delta_product(self, s: Signals, dual: Tensor, Rdelta: Tensor, alpha: float, beta: float) -> Tensor:
        """This process's part of α Rδ_k W_k + β δ_k V_k, (samples, m_{k−1}), to be summed over processes."""
        ...

    def put_forward(self, s: Signals, out: Tensor, Rh: Tensor, scale: float, onto: float) -> None:
        """out ← onto · out + scale · δ_kᵀ Rh_{k−1} in coefficients; Rh (samples, m_{k−1}) is complete.

        For two-sided blocks, before :meth:`put_backward`.
        """
        ...

    def put_backward(self, s: Signals, out: Tensor, Rdelta: Tensor, scale: float, onto: float) -> None:
        """out ← onto · out + scale · Rδ_kᵀ h_{k−1} in coefficients; Rδ holds this process's columns.

        For two-sided blocks ``onto`` is 1, for the result of :meth:`put_forward`.
        """
        ...


class DenseBlock:
    """V_k itself: this process's rows. Coefficients and dual are equal."""

    def __init__(self, partition: Partition, k: int, *, both: bool) -> None:
        self.k, self.both = k, both
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
        out.view(self.shape).addmm_(Rdelta.T, s.h[self.k - 1], beta=onto, alpha=scale)


class FactorBlock:
    """V_k = P_kᵀ h_{k−1} + δ_kᵀ Q_k with P (n, m_k) and Q (n, m_{k−1}), in this process's columns.  [ours]

    The dual is (X, Y) = (h V_kᵀ, δ V_k), so that ⟨V, V'⟩ = ⟨P, X'⟩ + ⟨Q, Y'⟩. With the Gram matrices
    K_h and K_δ of the batch, X = K_h P + (h Qᵀ) δ and Y = (δ Pᵀ) h + K_δ Q. Products with H need X
    and Y only and yield P' ∝ Rδ_k, Q' ∝ Rh_{k−1}. One-sided blocks have Q = 0: the first layer, since
    Rh_0 = 0, and every layer of Gauss–Newton products.
    """

    def __init__(self, signals: Signals, k: int, *, both: bool) -> None:
        partition = signals.partition
        self._lay_out(signals, k, both=both)
        self._h = partition.own(signals.h[k - 1], k - 1)
        self._delta = signals.delta[k]
        self.K_h = partition.sum(self._h @ self._h.T)
        self.K_delta = partition.sum(self._delta @ self._delta.T) if both else None

    def _lay_out(self, signals: Signals, k: int, *, both: bool) -> None:
        partition = signals.partition
        self.k, self.both = k, both
        self._signals = signals
        self._p = (signals.samples, partition.width(k))
        self._q = (signals.samples, partition.width(k - 1) if both else 0)
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
        """P = scale · Rδ_k, for all samples at once."""
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


def dense_cost(m_in: int, m_out: int, *, both: bool) -> int:
    """Multiplications per sample of a product for a dense V_k (m_out, m_in), without those with W_k."""
    return (4 if both else 2) * m_in * m_out


def factor_cost(m_in: int, m_out: int, n: int, *, both: bool) -> int:
    """The same for V_k in factors, including its dual."""
    return 3 * n * (m_in + m_out) if both else n * m_out
