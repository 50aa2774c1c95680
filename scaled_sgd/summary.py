"""What remains of a run: facts for ``summary.json``, and a few lines for a person."""

from typing import Any

import torch

from scaled_sgd.config import Config
from scaled_sgd.data import Data
from scaled_sgd.exchange import described
from scaled_sgd.parameterization import count_weights
from scaled_sgd.records import git_revision, versions
from scaled_sgd.sharding import Ranks
from scaled_sgd.strategies import Strategy


def run_facts(config: Config, data: Data, strategy: Strategy, device: torch.device) -> dict[str, Any]:
    """What the summary says of a run however it ended."""
    return {
        **network_facts(config, data, strategy.network.widths),
        "world_size": Ranks().size,
        "strategy": strategy.name,
        "exchange": None if strategy.exchange is None else described(strategy.exchange),
        "device": device.type,
        **software_facts(),
    }


def network_facts(config: Config, data: Data, widths: tuple[int, ...]) -> dict[str, Any]:
    """What was trained on what, wherever."""
    columns = data.columns
    return {
        "widths": list(widths),
        "parameters": count_weights(widths),
        "data": {
            "inputs": list(columns.inputs),
            "left_out": list(columns.left_out),
            "target": columns.target,
            "classes": data.class_names,
        },
        "seed": config.run.seed,
    }


def software_facts() -> dict[str, Any]:
    """What trained it."""
    return {"versions": versions(), "git_revision": git_revision()}


def summary_text(summary: dict[str, Any], path: str) -> str:
    """The summary of a finished run for a terminal."""
    known = {"initial_loss", "train_loss", "eval_loss", "steps", "seconds", "parameters"}
    metrics = {key: value for key, value in summary.items() if isinstance(value, float) and key not in known}
    lines = [
        ("train loss", f"{summary['train_loss']:.4g}"),
        ("eval loss", f"{summary['eval_loss']:.4g}"),
        *((name, f"{value:.4g}") for name, value in metrics.items()),
        ("steps", f"{summary['steps']} in {summary['seconds']:.1f} s"),
        ("network", f"{' × '.join(map(str, summary['widths']))} ({summary['parameters']:,} weights)"),
        ("processes", f"{summary['world_size']} ({summary['strategy']}, {summary['device']})"),
        ("run directory", path),
    ]
    if summary["train_loss"] > summary["initial_loss"]:
        lines.insert(0, ("warning", f"the loss ended above its start, {summary['initial_loss']:.4g}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
