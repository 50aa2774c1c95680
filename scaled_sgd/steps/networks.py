"""The interface between steps and weights: one network, or a stack of networks."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from scaled_sgd.core.activations import Activation
from scaled_sgd.steps.update import Number


class Networks(Protocol):
    """One network (:class:`~scaled_sgd.parallel.Partition`) or a :class:`~scaled_sgd.steps.stack.Stack`.

    Samples are rows. Leading dimensions (…) are those of a stack; one network has none.

    Attributes:
        depth: l.
        widths: (m_0, …, m_l).
        activation: φ.
        alpha: α_k (…, l), float64, on the device.
        alpha_squares: α_k², likewise.
        omega: ω_k (…, l), likewise.
        processes: number of processes that hold different rows.
    """

    @property
    def processes(self) -> int: ...  # noqa: D102

    @property
    def depth(self) -> int: ...  # noqa: D102
    @property
    def widths(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def activation(self) -> Activation: ...  # noqa: D102
    @property
    def product_squares(self) -> Mapping[int, Tensor]:
        """c² of each Vᵀ's place, () or (B, 1, 1), float64; c U Vᵀ is the W that the factors stand for."""
        ...

    def activation_at(self, k: int) -> Activation:
        """What is applied to z_k: φ, or the identity between two factors."""
        ...

    @property
    def alpha(self) -> Tensor: ...  # noqa: D102
    @property
    def alpha_squares(self) -> Tensor: ...  # noqa: D102
    @property
    def omega(self) -> Tensor: ...  # noqa: D102

    def start(self, x: Tensor) -> Tensor:
        """h_0 (…, n, m_0) from samples."""
        ...

    def factor(self, t: Tensor) -> Tensor:
        """A signal ``t`` as a factor of products, rounded if they are of bfloat16 factors."""
        ...

    def preactivation(self, h: Tensor, k: int) -> Tensor:
        """z_k = α_k h W_kᵀ (…, n, m_k), complete on every process."""
        ...

    def pulled_back(self, delta: Tensor, k: int) -> Tensor:
        """This process's columns of α_k δ_k W_k, from its columns of δ_k."""
        ...

    def own(self, t: Tensor, k: int) -> Tensor:
        """This process's columns of ``t`` (…, m_k), a view."""
        ...

    def gather(self, t: Tensor, k: int) -> Tensor:
        """``t`` (…, m_k) complete, from every process's columns."""
        ...

    def local(self, k: int) -> Tensor:
        """This process's rows of W_k, (…, width, m_{k−1})."""
        ...

    def check_in_place(self) -> None:
        """Refuse weights that :meth:`local` can only return as a copy."""
        ...

    def sum(self, t: Tensor) -> Tensor:
        """Sum ``t`` over the processes that hold different rows, in place."""
        ...

    def numbers(self, values: Tensor) -> list[Number]:
        """``values`` (…, layers) layer by layer, in a form that products use without synchronisation."""
        ...
