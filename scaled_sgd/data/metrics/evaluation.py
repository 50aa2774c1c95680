"""Computes metrics by name over gathered predictions, in one process and without shared files."""

import importlib.util
import numbers
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from scaled_sgd.config.resumed import BUILT_IN_METRICS
from scaled_sgd.core.errors import UserError
from scaled_sgd.data.hub import hub_is_reachable, offline
from scaled_sgd.data.metrics.formulas import accuracy, mean_squared_error, r2

Compute = Callable[..., dict[str, Any]]
_OWN = ", ".join(BUILT_IN_METRICS)
_ALLOWED = f"allowed: {_OWN}, a local script or a module on the hub"
_FORMULAS = {"accuracy": accuracy, "mse": mean_squared_error, "r2": r2}


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, ready to compute.

    Args:
        metrics: The `compute` of each: maps predictions and references to a dictionary of figures.
        task: Whether predictions are class ids or vectors.
    """

    metrics: dict[str, Compute]
    task: Literal["classification", "regression"]

    def compute(self, predictions: Tensor, references: Tensor) -> dict[str, float]:
        """All figures of all metrics over all N samples, gathered on this process.

        Args:
            predictions: Network outputs (N, C), whose argmax is the class, or class ids (N,); outputs (N, d)
                for regression.
            references: Class ids (N,), or targets (N, d).

        Raises:
            UserError: A metric does not accept the data, or returns no figures.
        """
        if self.task == "classification" and predictions.ndim == 2:
            predictions = predictions.argmax(dim=1)
        # Convert to float first: numpy has no bfloat16.
        f, y = (
            (t.double() if t.is_floating_point() else t).cpu().numpy()
            for t in (predictions.detach(), references.detach())
        )
        figures: dict[str, float] = {}
        for name, compute in self.metrics.items():
            try:
                result = compute(predictions=f, references=y)
            except Exception as error:
                raise UserError(
                    f"run.metrics: {name!r} does not accept this data: {error}; allowed: "
                    "metrics of one figure from predictions and references"
                ) from error
            if not all(_is_number(value) for value in result.values()):
                raise UserError(f"run.metrics: {name!r} gives {', '.join(result)}; allowed: single numbers")
            figures.update({key: float(value) for key, value in result.items()})
        return figures


def load_metrics(names: Sequence[str], task: Literal["classification", "regression"]) -> Evaluation:
    """Find metrics by name: built-in ones offline, a local script, or a module on the hub.

    Call it only on the process that computes.

    Raises:
        UserError: A name is unknown or of another task, or the hub does not answer.
    """
    return Evaluation({name: _load(name, task) for name in names}, task)


def built_in_metrics(names: Sequence[str], task: Literal["classification", "regression"]) -> Evaluation:
    """Only built-in metrics, by formula: the overhead of `evaluate` exceeds the work for a small network.

    Raises:
        UserError: A name is unknown, or of another task.
    """
    for name in names:
        if BUILT_IN_METRICS.get(name) != task:
            allowed = ", ".join(known for known, of in BUILT_IN_METRICS.items() if of == task)
            raise UserError(f"run.metrics: {name!r} is no built-in metric of {task}; allowed: {allowed}")
    return Evaluation({name: _without_evaluate(name) for name in names}, task)


def _load(name: str, task: str) -> Compute:
    if name in BUILT_IN_METRICS:
        if BUILT_IN_METRICS[name] != task:
            raise UserError(
                f"run.metrics: {name!r} is for {BUILT_IN_METRICS[name]}; allowed: metrics of {task}"
            )
        # Importing `evaluate` takes as long as importing torch.
        return _without_evaluate(name)
    if importlib.util.find_spec("evaluate") is None:
        raise UserError(f"run.metrics: {name!r} needs the package 'evaluate'; allowed without it: {_OWN}")
    path = Path(os.path.expanduser(name))
    if name and os.path.isfile(path):
        return _loaded(str(path.resolve()), name)
    if not name or path.suffix == ".py" or name.startswith((".", "/", "~")):
        raise UserError(f"run.metrics: no script {name!r}; {_ALLOWED}")
    if hub_is_reachable():
        return _loaded(name, name)
    return _loaded(name, name, cached_only=True)


def _without_evaluate(name: str) -> Compute:
    formula = _FORMULAS[name]
    return lambda predictions, references: {name: formula(predictions, references)}


def _loaded(path: str, name: str, *, cached_only: bool = False) -> Compute:
    import evaluate

    try:
        with offline((evaluate.config, "HF_EVALUATE_OFFLINE")) if cached_only else nullcontext():
            compute: Compute = evaluate.load(path, keep_in_memory=True).compute
            return compute
    except Exception as error:
        if cached_only:
            raise UserError(
                f"run.metrics: cannot reach the Hugging Face hub for {name!r}; "
                f"allowed without it: {_OWN} and a local script"
            ) from error
        raise UserError(f"run.metrics: cannot load {name!r}: {error}; {_ALLOWED}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) or getattr(value, "ndim", None) == 0
