"""Lines through the weights of a stored network: along an eigenvector, its gradient, to another network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.eigenpairs import sharpness
from scaled_sgd.diagnostics.taylor import TaylorCoefficients, taylor_of
from scaled_sgd.runs.trained import load_run
from scaled_sgd.runs.vectors import holds_vectors, read_vectors
from scaled_sgd.steps.minibatch import Minibatch, gradient_rows
from scaled_sgd.train.probed import Probed

NAMES = ("eigenvector", "gradient")
_TOLERANCE, _PRODUCTS = 1e-6, 1000


@dataclass(frozen=True)
class Line:
    """θ + t u.

    Attributes:
        words: u as text.
        axis: t as text.
        rows: u, one tensor per layer, shaped as W_k.
        terms: c0..c3 of the loss along u.
        ends: the usual first and last t.
        marks: values of t to point out, by what they are.
    """

    words: str
    axis: str
    rows: Sequence[Tensor]
    terms: TaylorCoefficients
    ends: tuple[float, float]
    marks: dict[str, float]


def find_line(run: Probed, batch: Minibatch, along: str, *, index: int) -> Line:
    """The line that ``along`` names.

    Args:
        run: the network.
        batch: its probe.
        along: ``eigenvector``, ``gradient``, or the path of a run, a checkpoint, a model folder or kept
            eigenvectors.
        index: which eigenvector, from 1.

    Raises:
        UserError: there is no such thing, or it does not fit the network.
    """
    if along == "gradient":
        return _gradient(batch)
    if along == "eigenvector":
        return _eigenvector(run, batch, index)
    if not Path(along).is_dir():
        raise UserError(
            f"--along: {along!r} is no folder; allowed: {', '.join(NAMES)}, or the path of a run, a "
            "checkpoint or kept eigenvectors"
        )
    if holds_vectors(Path(along)):
        return _kept(run, batch, Path(along), index)
    return _between(run, batch, along)


def _eigenvector(run: Probed, batch: Minibatch, index: int) -> Line:
    pairs = sharpness(
        run.network, run.x, run.y, loss=run.loss, k=index, tolerance=_TOLERANCE, max_iterations=_PRODUCTS
    )
    if len(pairs.values) < index or not bool(pairs.values.isfinite().all()):
        raise UserError(f"--index: {index} is not usable; allowed: 1 to {len(pairs.values)} here")
    value, residual = float(pairs.values[index - 1]), float(pairs.residuals[index - 1])
    words = f"eigenvector {index} of H, λ = {value:.5g} (residual {residual:.1g})"
    return _along_vector(batch, pairs.expand(index - 1), words)


def _kept(run: Probed, batch: Minibatch, folder: Path, index: int) -> Line:
    kept = read_vectors(folder)
    rows = [t.double() for t in kept.vector(index)]
    shapes = [tuple(layer.weight.shape) for layer in run.network.scaled_layers]
    if [tuple(t.shape) for t in rows] != shapes:
        raise UserError(f"--along: {str(folder)!r} is of another network; allowed: shapes {shapes}")
    return _along_vector(batch, rows, f"eigenvector {index} of H at step {kept.step}")


def _along_vector(batch: Minibatch, rows: Sequence[Tensor], words: str) -> Line:
    terms = _terms(batch, rows)
    assert terms.c2 is not None
    loss, bend = float(terms.c0), abs(float(terms.c2))
    # The quadratic term is the loss itself at the ends.
    reach = (loss / bend) ** 0.5 if loss > 0 and bend > 0 else 1.0
    return Line(words, "distance from the weights", rows, terms, (-reach, reach), {"the weights": 0.0})


def _gradient(batch: Minibatch) -> Line:
    rows = [-G for G in gradient_rows(batch).values()]
    terms = _terms(batch, rows)
    assert terms.c2 is not None
    slope, bend = -float(terms.c1), float(terms.c2)
    if not slope > 0:
        raise UserError("--along: 'gradient' is 0 at these weights; allowed: another direction")
    marks = {"the weights": 0.0}
    if bend > 0:
        # Where a quadratic has its first value again: 2 over the curvature along the gradient.
        marks |= {"its edge": slope / bend}
    reach = slope / bend if bend > 0 else float(terms.c0) / slope
    return Line("−∇L", "learning rate", rows, terms, (-0.5 * reach, 1.5 * reach), marks)


def _between(run: Probed, batch: Minibatch, path: str) -> Line:
    other = load_run(path).model
    if other.widths != run.network.widths:
        raise UserError(f"--along: {path!r} has widths {other.widths}; allowed: {run.network.widths}")
    pairs = zip(run.network.scaled_layers, other.scaled_layers, strict=True)
    rows = [b.weight.detach().double() - a.weight.detach() for a, b in pairs]
    marks = {"the weights": 0.0, Path(path).name: 1.0}
    words = f"the way to {path}"
    return Line(words, "share of the way", rows, _terms(batch, rows), (-0.5, 1.5), marks)


def _terms(batch: Minibatch, rows: Sequence[Tensor]) -> TaylorCoefficients:
    return taylor_of(batch, lambda k: rows[k - 1] * batch.partition.multiplier(k))
