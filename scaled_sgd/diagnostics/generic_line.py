"""The loss of any network along a line through its parameters, and its Taylor terms, by ``torch.func``."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import grad, grad_and_value, vjp

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.eigenpairs import Eigenpairs
from scaled_sgd.diagnostics.operators.autograd import generic_scales
from scaled_sgd.diagnostics.operators.generic import GenericLoss


class GenericLine:
    """L(θ + t u) of the minibatch of all processes.

    Args:
        model: any module that maps x to outputs (n, m_l), with full parameters on every process.
        x: this process's samples.
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        direction: u, a tensor for each trainable parameter tensor, or eigenpairs, for the first eigenvector;
            None: −ξ times the gradient.
        scales: ξ, one number per trainable parameter tensor, or None for 1.

    Raises:
        UserError: sharded parameters, or a direction, scales or samples that do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: str,
        direction: object = None,
        scales: str | Tensor | None = None,
    ) -> None:
        check_along(direction, scales)
        self._problem = problem = GenericLoss(model, x, y, loss=loss)
        vectors = problem.vectors
        self.scales: Tensor | None = None
        if direction is None:
            self.scales = xi = generic_scales(vectors, scales)
            steps = zip(xi, vectors.expand(problem.gradient()), strict=True)
            flat = torch.cat([(-number * step).reshape(-1) for number, step in steps])
        else:
            tensors = direction.expand() if isinstance(direction, Eigenpairs) else direction
            flat = vectors.flat(tensors, "direction")
        self._u = vectors.named(flat)

    def losses(self, at: Sequence[float]) -> Tensor:
        """L at each t, (len(at),), float64."""
        vectors = self._problem.vectors
        found = torch.zeros(len(at), dtype=torch.float64, device=vectors.device)
        with torch.no_grad():
            for place, t in enumerate(at if len(self._problem.x) else ()):
                found[place] = self._problem.share(self._moved(t))
        return vectors.ranks.sum(found)

    def terms(self, order: int) -> Tensor:
        """c0, c1, mean ½ℓ''(f1, f1) and the rest of c2, and c3, (5,), by nested backward passes in t.

        Those above ``order`` are 0.
        """
        problem = self._problem
        vectors = problem.vectors
        zero = torch.zeros((), dtype=vectors.dtype, device=vectors.device)
        found = zero.new_zeros(5)
        if not len(problem.x):
            return vectors.ranks.sum(found)

        def first(t: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            slope, value = grad_and_value(lambda t: problem.share(self._moved(t)))(t)
            return slope, (value, slope)

        def second(t: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            twice, lower = grad(first, has_aux=True)(t)
            return twice, (*lower, twice)

        if order == 1:
            found[:2] = torch.stack(first(zero)[1]).detach()
        else:
            thrice, lower = grad(second, has_aux=True)(zero) if order > 2 else (zero, second(zero)[1])
            gauss_newton = self._gauss_newton(zero)
            c0, c1, twice = lower
            terms = [c0, c1, gauss_newton, twice / 2 - gauss_newton, thrice / 6]
            found = torch.stack(terms).detach()
        return vectors.ranks.sum(found)

    def _gauss_newton(self, zero: Tensor) -> Tensor:
        """This process's part of mean ½ℓ''(f1, f1)."""
        problem = self._problem
        outputs = vjp(lambda t: problem.outputs(self._moved(t)), zero)
        f, pull = outputs[0], outputs[1]
        (f_1,) = vjp(lambda r: pull(r)[0], torch.zeros_like(f))[1](torch.ones_like(zero))
        value: Tensor = (f_1 * problem.ell.hessian_product(f, f_1)).sum() / (2 * problem.total)
        return value

    def _moved(self, t: float | Tensor) -> dict[str, Tensor]:
        return {key: p + t * self._u[key] for key, p in self._problem.vectors.parameters.items()}


def check_along(direction: object, scales: object) -> None:
    """Refuse a direction together with scales."""
    if direction is not None and scales is not None:
        raise UserError("direction: scales are given too; allowed: one of them")


def check_unchunked(chunk_size: int | None) -> None:
    """Refuse chunks, which networks other than a HomogeneousMLP have not."""
    if chunk_size is not None:
        raise UserError(f"chunk_size: {chunk_size!r} is for HomogeneousMLP alone; allowed here: None")
