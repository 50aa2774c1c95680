"""Small study folders whose right answers are known, in the layout that studies have."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

Axes = dict[str, Any]
FIRST_LOSS = 1.0


def grid(axes: Mapping[str, Sequence[Any]]) -> Iterator[Axes]:
    """Every combination, the last axis fastest."""
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def identifier(axes: Axes) -> str:
    return hashlib.sha256(json.dumps(axes, sort_keys=True).encode()).hexdigest()[:12]


def finished(loss: float, *, rows: Sequence[dict[str, Any]] = (), **summary: Any) -> dict[str, Any]:
    """A run that ended at ``loss``."""
    facts = {
        "status": "finished",
        "steps": 20,
        "initial_loss": FIRST_LOSS,
        "max_loss": FIRST_LOSS,
        "train_loss": loss,
        "eval_loss": loss * 1.1,
        "accuracy": 0.5,
        "seconds": 1.0,
        "widths": [64, 4, 10],
        "parameters": 296,
        "versions": {"scaled-sgd": "0.1.0", "torch": "2.13.0"},
        "git_revision": "abc123",
        "device": "cpu",
    }
    return {"summary": facts | summary, "rows": [{"step": 0, "lr": 1.0, "loss": FIRST_LOSS}, *rows]}


def diverged(**summary: Any) -> dict[str, Any]:
    """A run that overflowed."""
    facts = {"status": "diverged", "step": 3, "layer": 2, "max_loss": None, "train_loss": None}
    run = finished(0.0)
    return run | {"summary": run["summary"] | {"eval_loss": None, "accuracy": None} | facts | summary}


def config(axes: Axes) -> dict[str, Any]:
    """A configuration as the plan has it, with the dotted axes in their places."""
    nested: dict[str, Any] = {
        "loss": "mse",
        "model": {"depth": 4, "base_width": 8, "activation": "abs"},
        "optim": {"lr": 1.0, "clip_norm": None},
        "scaling": {"rule": "norm"},
        "run": {"seed": 0},
    }
    for key, value in axes.items():
        *groups, leaf = key.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        if groups or key == "loss":
            place[leaf] = value
    return nested


def make_study(
    folder: Path,
    axes: Mapping[str, Sequence[Any]] | Sequence[Axes],
    outcome: Callable[[Axes], dict[str, Any] | None],
    *,
    study: dict[str, Any] | None = None,
    reverse: bool = False,
) -> Path:
    """A study of these axes whose run at ``axes`` ended as ``outcome(axes)`` says; None: it has not."""
    planned = list(grid(axes)) if isinstance(axes, Mapping) else list(axes)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    head = {"title": "A study", "about": "Made up."} | (study or {})
    (folder / "study.yaml").write_text(yaml.safe_dump(head, allow_unicode=True), encoding="utf-8")
    lines = [{"id": identifier(a), "axes": a, "config": config(a)} for a in planned]
    plan = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "plan.jsonl").write_text(plan, encoding="utf-8")
    for one in reversed(planned) if reverse else planned:
        run = outcome(one)
        if run is not None:
            write_run(folder / "runs" / identifier(one), run)
    return folder


def write_run(folder: Path, run: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in run["rows"])
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(run["summary"]), encoding="utf-8")


def diagnosed(step: int, *, lr: float = 1.0, layers: int = 3, **numbers: Any) -> dict[str, Any]:
    """A row of a diagnostic step with every number a figure needs."""
    row = {
        "step": step,
        "lr": lr,
        "loss": 0.5,
        "predicted_loss": 0.4,
        "loss_after": 0.4,
        "sharpness": 2.0,
        "preconditioned_sharpness": 1.0,
        "edge_ratio": lr / 2,
        "scales": [1.0] * layers,
        "soft_ranks": [1.0 + k for k in range(layers)],
        "features": {
            "stable": [1.5] * (layers - 1),
            "participation": [1.5] * (layers - 1),
            "effective": [1.5] * (layers - 1),
            "drift": [0.1 * step] * (layers - 1),
        },
        "preactivation_change": [0.1] * layers,
        "gates_flipped": [0.02] * (layers - 1),
        "batch_sharpness": 1.5,
        "gradient_noise_interaction": 0.5,
        "gauss_newton_sharpness": 1.8,
        "feature_sharpness": 0.4,
        "block_sharpness": [0.5] * layers,
        "top_vector_shares": [1 / layers] * layers,
        "batch_eigenvalue": 1.9,
        "batch_spectrum": {"nodes": [-0.1, 0.0, 1.9], "weights": [0.01, 0.98, 0.01]},
        "noise_stability": 1.1,
        "critical_rate": 1.5 * lr,
        "critical_edge_ratio": 1 / 1.5,
        "generalized_sharpness": 0.8,
        "generalized_edge_ratio": 0.4,
        "adam_sharpness": 30.0,
        "adam_edge_ratio": 0.8,
        "progressive_sharpening": 0.2,
        "self_stabilization": 4.0,
        "sharpness_change": 0.1,
        "predicted_sharpness_change": 0.09,
        "neural_collapse": 1.2,
        "label_alignment": {"kernel": 0.3, "features": 0.4},
        "log_lambda_min": [-3.0] * (layers - 1),
        "linearisation_distance": 0.6,
        "change_by_weights": [0.1] * layers,
        "change_by_features": [0.05] * layers,
        "oscillation": 0.02,
        "subspace_overlap": 0.9,
        "gradient_in_subspace": 0.3,
        "step_in_subspace": 0.2,
        "knowledge_gain": [0.1] * layers,
        "seconds": 0.01 * step,
    }
    return row | numbers
