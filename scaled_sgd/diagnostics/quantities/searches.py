"""Searches for eigenpairs in a run, each from the vectors that the last one found."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from scaled_sgd.diagnostics.eigenpairs import Eigenpairs, sharpness_of
from scaled_sgd.diagnostics.observer import Context
from scaled_sgd.diagnostics.operators.curvature import Curvature
from scaled_sgd.diagnostics.operators.space import Vectors, WeightOperator


class SearchSettings(Protocol):
    """Keys of the ``diagnostics.`` section."""

    k: int
    tolerance: float


class Searches:
    """Searches by name, for the ``k`` largest eigenvalues of an operator."""

    def __init__(self, config: SearchSettings, *, k: int | None = None) -> None:
        self._k, self._tolerance = config.k if k is None else k, config.tolerance
        self.starts: dict[str, Tensor] = {}

    def top(self, name: str, operator: WeightOperator) -> Eigenpairs:
        """The eigenpairs of the operator of this name with the current weights."""
        start = self.start(name, operator.vectors)
        pairs = sharpness_of(operator, k=self._k, tolerance=self._tolerance, warm_start=start)
        self.starts[name] = pairs.vectors
        return pairs

    def start(self, name: str, vectors: Vectors) -> Tensor | None:
        """What the last search of this name found, if these vectors are stored alike."""
        start = self.starts.get(name)
        return start if start is not None and start.shape[1] == vectors.size else None

    def hessian(self, context: Context) -> tuple[Curvature, Eigenpairs]:
        """H of the probe and its ``k`` largest eigenpairs or more: of a quantity before, or found for all."""
        found = context.found.get("hessian")
        if found is None or len(found.values) < self._k:
            found = context.found["hessian"] = self.top("hessian", context.hessian)
        return context.hessian, found

    def state_dict(self) -> dict[str, Tensor]:
        """The start vectors of later searches."""
        return {f"start.{name}": vectors for name, vectors in self.starts.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self.starts = {name.removeprefix("start."): vectors for name, vectors in state.items()}
