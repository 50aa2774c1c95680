"""Products captured as CUDA graphs: one launch for each product of a search instead of hundreds (ours)."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from scaled_sgd.diagnostics.operators.space import Vectors, WeightOperator
from scaled_sgd.diagnostics.operators.weights import RowVectors
from scaled_sgd.steps.captured import Capture, CudaGraphs, why_failed

AFTER = 1
"""Products that run as they are; the next one is captured, and it and all others are replays of that."""

LARGEST = 1 << 30
"""Bytes of weights from which on products take far longer than their launches."""

_ALLOWED: ContextVar[bool] = ContextVar("graphs", default=True)


@contextmanager
def allow_graphs(allowed: bool) -> Iterator[None]:
    """Whether products may be captured meanwhile."""
    token = _ALLOWED.set(allowed)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def capture_of(operator: WeightOperator) -> Capture | None:
    """Captures the products of ``operator``; None: they run as they are.

    Those are on CPUs, of modules whose code is not ours, where several processes exchange within a product,
    and of weights whose products take longer than their launches.
    """
    vectors = operator.vectors
    launched = vectors.device.type == "cuda" and vectors.weight_bytes <= LARGEST
    ours = isinstance(vectors, RowVectors) and vectors.partition.ranks.size == 1
    return CudaGraphs() if _ALLOWED.get() and launched and ours else None


class ReplayedOperator:
    """An operator whose products and duals are captured after :data:`AFTER` of them."""

    def __init__(self, operator: WeightOperator, capture: Capture) -> None:
        self._multiply = _Replayed(operator.multiply, capture)
        self._vectors = _ReplayedVectors(operator.vectors, capture)

    @property
    def vectors(self) -> Vectors:
        """What it multiplies."""
        return self._vectors

    def multiply(self, dual: Tensor, out: Tensor) -> Tensor:
        """Coefficients of the product, into ``out``."""
        return self._multiply(dual, out)


class _ReplayedVectors:
    """Vectors whose duals are captured."""

    def __init__(self, vectors: Vectors, capture: Capture) -> None:
        self.size, self.dtype, self.device = vectors.size, vectors.dtype, vectors.device
        self.identity_dual = vectors.identity_dual
        self.random, self.sum = vectors.random, vectors.sum
        self._plain = vectors.dual
        self._dual = _Replayed(vectors.dual, capture)

    def dual(self, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
        """The dual of a vector."""
        if self.identity_dual or out is None:
            return self._plain(coefficients, out)
        return self._dual(coefficients, out)


class _Replayed:
    """A function from one vector into another, captured between two vectors of its own."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], capture: Capture) -> None:
        self._function = function
        self._capture: Capture | None = capture
        self._calls = 0
        self._own: tuple[Tensor, Tensor] | None = None
        self._replay: Callable[[], object] | None = None

    def __call__(self, given: Tensor, out: Tensor) -> Tensor:
        self._calls += 1
        if self._capture is not None and self._calls <= AFTER:
            return self._capture.warm_up(lambda: self._function(given, out))
        if self._capture is not None:
            capture, self._capture = self._capture, None
            own = torch.empty_like(given), torch.empty_like(out)
            try:
                self._replay, self._own = capture.capture(lambda: self._function(*own)), own
            except RuntimeError as error:
                line = f"products are not captured as CUDA graphs: {why_failed(error)}"
                warnings.warn(line, stacklevel=2)
        if self._replay is None or self._own is None:
            return self._function(given, out)
        self._own[0].copy_(given)
        self._replay()
        return out.copy_(self._own[1])
