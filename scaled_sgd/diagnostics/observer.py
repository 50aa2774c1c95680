"""What a run measures at diagnostic steps, as a row of ``metrics.jsonl``."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scaled_sgd.diagnostics import Eigenpairs, HessianSpace, Minibatch, gram, kernel_drift
from scaled_sgd.diagnostics.features import kernel_ranks, soft_ranks_of
from scaled_sgd.diagnostics.preactivations import preactivations, relative_change
from scaled_sgd.diagnostics.sample_space import SampleSpace, choose_space
from scaled_sgd.diagnostics.sharpness import sharpness_of
from scaled_sgd.diagnostics.taylor import taylor_of


class Settings(Protocol):
    """The ``diagnostics.`` section, as far as it is looked at here."""

    every: int
    taylor: bool
    sharpness: bool
    ranks: bool
    k: int
    tolerance: float
    chunk: int


class Observer:
    """Measures a network before a step. Collective.

    Args:
        config: what to measure.
        model: a HomogeneousMLP, wrapped and sharded as may be.
        x: the probe, the same on every rank.
        y: their targets, as the loss takes them.
        loss: ``cross_entropy`` or ``mse``.
    """

    def __init__(self, config: Settings, model: nn.Module, x: Tensor, y: Tensor, *, loss: str) -> None:
        self._config = config
        self._model = model
        self._probe = (x, y)
        self._loss = loss
        self._starts: dict[str, Tensor] = {}
        self._first_kernels: list[Tensor] | None = None
        self._first_preactivations: list[Tensor] | None = None
        self._knows_first = True

    def due(self, step: int) -> bool:
        """Whether ``step`` is a diagnostic step."""
        return self._config.every > 0 and step % self._config.every == 0

    def measure(self, minibatch: Minibatch, *, scales: Tensor, lr: float) -> dict[str, Any]:
        """All that is measured before a step of ``minibatch`` with ``scales`` and rate ``lr``.

        In whole float32 also where steps take TF32, whose products have three digits.
        """
        shorter = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            return self.measure_step(minibatch, scales=scales, lr=lr) | self.measure_probe(
                scales=scales, lr=lr
            )
        finally:
            torch.backends.cuda.matmul.allow_tf32 = shorter

    def measure_step(self, minibatch: Minibatch, *, scales: Tensor, lr: float) -> dict[str, Any]:
        """Taylor terms of the minibatch before its update with ``scales``."""
        if not self._config.taylor:
            return {}
        terms = taylor_of(minibatch, scales.to(minibatch.partition.dtype))
        names = ("c0", "c1", "c2", "c3", "gauss_newton", "feature")
        return {
            "taylor": {name: float(getattr(terms, name)) for name in names},
            "predicted_loss": float(terms.predicted_loss(lr)),
        }

    def measure_probe(self, *, scales: Tensor, lr: float) -> dict[str, Any]:
        """Curvature and ranks on the probe; ``scales`` are those of the coming step."""
        batch = Minibatch(
            self._model, *self._probe, loss=self._loss, chunk_size=self._config.chunk, whole=True
        )
        row = self._preactivation_change(batch)
        if self._config.sharpness:
            plain = self._eigenpairs("plain", choose_space(batch, None))
            scaled = self._eigenpairs("scaled", choose_space(batch, scales.to(batch.partition.dtype)))
            row |= {
                "sharpness": float(plain.values[0]),
                "preconditioned_sharpness": float(scaled.values[0]),
                "edge_ratio": lr * float(scaled.values[0]) / 2,
                "sharpness_residuals": [float(plain.residuals[0]), float(scaled.residuals[0])],
            }
            if self._config.k > 1:
                row["eigenvalues"] = plain.values.tolist()
                row["preconditioned_eigenvalues"] = scaled.values.tolist()
        if self._config.ranks:
            row["soft_ranks"] = soft_ranks_of(batch).tolist()
            row["features"] = self._features(batch)
        return row

    def state_dict(self) -> dict[str, Any]:
        """Vectors that later eigenvalue searches start from, and what changes are measured from."""
        return {
            "starts": dict(self._starts),
            "first_kernels": self._first_kernels,
            "first_preactivations": self._first_preactivations,
            "knows_first": self._knows_first,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up :meth:`state_dict`."""
        self._starts = dict(state["starts"])
        self._first_kernels = state["first_kernels"]
        self._first_preactivations = state["first_preactivations"]
        self._knows_first = state["knows_first"]

    def _eigenpairs(self, name: str, space: HessianSpace | SampleSpace) -> Eigenpairs:
        start = self._starts.get(name)
        pairs = sharpness_of(
            space,
            k=self._config.k,
            tolerance=self._config.tolerance,
            warm_start=start if start is not None and start.shape[1] == space.size else None,
        )
        self._starts[name] = pairs.vectors
        return pairs

    def _preactivation_change(self, batch: Minibatch) -> dict[str, Any]:
        """Per layer; the preactivations of the first call are what it is measured from."""
        if not self._knows_first:
            return {}
        now = preactivations(batch)
        if self._first_preactivations is None:
            self._first_preactivations = now
        return {"preactivation_change": relative_change(now, self._first_preactivations).tolist()}

    def _features(self, batch: Minibatch) -> dict[str, list[float]]:
        """Per hidden layer; the kernels of the first call are what drift is measured from."""
        kernels = [gram(torch.cat(h)) for h in zip(*(signals.h[1:] for signals in batch), strict=True)]
        if self._first_kernels is None:
            self._first_kernels = kernels
        ranks = [kernel_ranks(K) for K in kernels]
        figures = {
            name: [float(getattr(rank, name)) for rank in ranks]
            for name in ("stable", "participation", "effective")
        }
        drift = [float(kernel_drift(K, K_0)) for K, K_0 in zip(kernels, self._first_kernels, strict=True)]
        return figures | {"drift": drift}
