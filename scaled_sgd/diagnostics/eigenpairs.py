"""Top eigenpairs of the minibatch Hessian, preconditioned or not (theory §5)."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.numbers import check_integer
from scaled_sgd.diagnostics.algorithms.lanczos import Which, lanczos
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.operators.autograd import GenericCurvature
from scaled_sgd.diagnostics.operators.curvature import curvature
from scaled_sgd.diagnostics.operators.r_operator import Part
from scaled_sgd.diagnostics.operators.replayed import ReplayedOperator, capture_of
from scaled_sgd.diagnostics.operators.space import Vectors, WeightOperator, WeightVectors
from scaled_sgd.diagnostics.operators.weights import SpaceName, check_space
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.scales import resolve_scales

BASIS_BYTES = 1 << 27
"""Bytes that a default basis may take on one process if half the weights' own bytes are less."""


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs of a minibatch Hessian, best first.

    Attributes:
        values: λ, shape (k,), float64 on the CPU; fewer if the range of H has fewer dimensions; one nan, not
            converged, if the network is not finite. Only one copy of a multiple eigenvalue is found.
        vectors: coefficients (k, ·) of this process's share, stored as in their space. Pass them, or the
            whole object, as ``warm_start`` of a later call; keeping only the vectors frees the minibatch's
            activations, which :meth:`expand` needs.
        residuals: ‖Hv − λv‖ / |λ|, shape (k,).
        iterations: number of Hessian products.
        converged: whether every residual is within the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    iterations: int
    converged: bool
    _expand: Callable[[Tensor], list[Tensor]] = field(repr=False)

    def expand(self, index: int = 0) -> list[Tensor]:
        """Eigenvector ``index`` in weight space, with norm 1: this process's rows of each layer."""
        return self._expand(self.vectors[index])


@without_autocast
def sharpness(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: str,
    scales: str | Tensor | None = None,
    k: int = 1,
    which: Which = "largest",
    part: Part = "hessian",
    space: SpaceName = "auto",
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    basis: int | None = None,
    warm_start: Eigenpairs | Tensor | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """The top ``k`` eigenpairs of H, or of Ξ^{1/2} H Ξ^{1/2} with ``scales``, on the global minibatch.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded; other networks take the generic path.
        x: this process's samples.
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        scales: ξ: None for 1, a rule by name, or a tensor (l,).
        k: number of eigenpairs.
        which: ``largest`` (algebraic) or ``magnitude``.
        part: ``hessian``, ``gauss_newton`` (the part G from moving outputs) or ``feature`` (H − G).
        space: how vectors are stored: ``dense`` as weights, ``factor`` as factors, also exact, or
            ``auto``: for each layer whichever makes products cheaper.
        tolerance: on the residuals.
        max_iterations: largest number of Hessian products.
        basis: number of basis vectors held; by default what fits in half the weights' bytes or 128 MiB.
        warm_start: an earlier result on the same samples; the weights may have changed.
        chunk_size: largest number of samples at a time; vectors are then dense.
        seed: seed of the start vector.

    Raises:
        UserError: invalid arguments.
    """
    if is_homogeneous(model):
        batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
        return sharpness_of(
            curvature(
                batch, None if scales is None else resolve_scales(scales, batch), part=part, space=space
            ),
            k=k,
            which=which,
            tolerance=tolerance,
            max_iterations=max_iterations,
            basis=basis,
            warm_start=warm_start,
            seed=seed,
        )
    check_space(space)
    if space == "factor":
        raise UserError("space: 'factor' is for HomogeneousMLP alone; allowed here: 'auto', 'dense'")
    return sharpness_of(
        GenericCurvature(model, x, y, loss=loss, scales=scales, part=part),
        k=k,
        which=which,
        tolerance=tolerance,
        max_iterations=max_iterations,
        basis=basis,
        warm_start=warm_start,
        seed=seed,
    )


def sharpness_of(
    operator: WeightOperator,
    *,
    k: int = 1,
    which: Which = "largest",
    tolerance: float = 1e-3,
    least: float = 0.0,
    max_iterations: int = 100,
    basis: int | None = None,
    warm_start: Eigenpairs | Tensor | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """Like :func:`sharpness`, on an operator that can be reused for several calls.

    ``least`` is a residual ‖Hv − λv‖ that is small enough for any λ.

    Raises:
        UserError: invalid numbers, or a warm start with other vectors.
    """
    vectors, capture = operator.vectors, capture_of(operator)
    check_integer("k", k, most=vectors.weight_bytes // (torch.finfo(vectors.dtype).bits // 8))
    check_integer("seed", seed, least=0, most=2**63 - 1)
    with torch.no_grad():
        ritz = lanczos(
            operator if capture is None else ReplayedOperator(operator, capture),
            operator.start(seed) if warm_start is None else warm_vector(vectors, warm_start),
            k=k,
            which=which,
            tolerance=tolerance,
            least=least,
            max_iterations=max_iterations,
            basis=default_basis(vectors, k) if basis is None else basis,
            seed=seed,
        )
    return Eigenpairs(
        ritz.values, ritz.vectors, ritz.residuals, ritz.iterations, ritz.converged, vectors.expand
    )


def warm_vector(space: Vectors, warm_start: Eigenpairs | Tensor) -> Tensor:
    """The sum of earlier vectors: their coefficients, combined with the new signals.

    Raises:
        UserError: they belong to another space.
    """
    if not isinstance(warm_start, Tensor | Eigenpairs):
        raise UserError(
            f"warm_start: {type(warm_start).__name__} does not fit; allowed: Eigenpairs, a tensor"
        )
    vectors = warm_start if isinstance(warm_start, Tensor) else warm_start.vectors
    if vectors.ndim != 2 or vectors.shape[1] != space.size or not len(vectors):
        raise UserError(
            f"warm_start: shape {tuple(vectors.shape)} does not fit; allowed: (k, {space.size}), "
            "from the same space, samples and processes"
        )
    return vectors.to(space.device, space.dtype).sum(0)


def default_basis(space: WeightVectors, k: int, *, most: int | None = None) -> int:
    """The number of vectors that the memory allows, from k + 3 to ``most``, by default 2k + 10."""
    itemsize = torch.finfo(space.dtype).bits // 8
    allowed = max(BASIS_BYTES, space.weight_bytes // 2) // max(1, space.size * itemsize)
    return max(k + 3, min(2 * k + 10 if most is None else most, allowed))
