"""The summary of a run: facts for ``summary.json``, and a few lines for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scaled_sgd.config import Config
from scaled_sgd.core.parameterization import count_weights
from scaled_sgd.core.text import escaped
from scaled_sgd.data import Data, Resident
from scaled_sgd.parallel.exchange import described
from scaled_sgd.runs.records import versions
from scaled_sgd.runs.revision import git_revision


def run_facts(
    config: Config,
    data: Data,
    widths: tuple[int, ...],
    *,
    processes: int,
    exchange: Sequence[bool] | None,
    device: str,
    software: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The part of the summary that does not depend on how the run ended, from a resolved configuration."""
    return {
        **network_facts(config, data, widths),
        "world_size": processes,
        "strategy": config.sharding.strategy,
        "update": config.optim.update,
        "exchange": None if exchange is None else described(exchange),
        "device": device,
        **(software_facts() if software is None else software),
    }


def network_facts(config: Config, data: Data, widths: tuple[int, ...]) -> dict[str, Any]:
    """Facts about the network and the data."""
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
        "sizes": sizes(config, data),
        "seed": config.run.seed,
    }


def sizes(config: Config, data: Data) -> dict[str, int | None]:
    """Samples of training, of evaluation, of the largest minibatch and of the probe, as they are used.

    None: not known of a stream, or no probe is measured.
    """
    training = len(data.train) if isinstance(data.train, Resident) else None
    held_out, probe = len(data.evaluation), config.diagnostics.probe_size
    return {
        "training": training,
        "held_out": held_out,
        "batch": config.optim.batch if training is None else min(config.optim.batch, training),
        "probe": min(probe, held_out if training is None else training) if config.diagnostics.every else None,
    }


def sizes_cut(config: Config, data: Data) -> Iterator[str]:
    """A line for each size that the configuration asks for and the data do not have."""
    used = sizes(config, data)
    for key, asked, found in (
        ("optim.batch_size", config.optim.batch, used["batch"]),
        ("diagnostics.samples", config.diagnostics.probe_size, used["probe"]),
    ):
        if found is not None and found < asked:
            yield f"{key}: {asked} is more than there are; all {found} samples are taken"


def software_facts() -> dict[str, Any]:
    """Facts about the software."""
    return {"versions": versions(), "git_revision": git_revision()}


def summary_text(summary: dict[str, Any], path: str) -> str:
    """The summary of a finished run as text for the terminal."""
    known = {"initial_loss", "max_loss", "train_loss", "eval_loss", "steps", "seconds", "parameters"}
    metrics = {key: value for key, value in summary.items() if isinstance(value, float) and key not in known}
    lines = [
        ("train loss", f"{summary['train_loss']:.4g}"),
        ("eval loss", f"{summary['eval_loss']:.4g}"),
        *((name, f"{value:.4g}") for name, value in metrics.items()),
        ("steps", f"{summary['steps']} in {summary['seconds']:.1f} s"),
        ("network", f"{' × '.join(map(str, summary['widths']))} ({summary['parameters']:,} weights)"),
        ("processes", f"{summary['world_size']} ({summary['strategy']}, {summary['device']})"),
        ("run directory", escaped(path)),
    ]
    if summary["train_loss"] > summary["initial_loss"]:
        lines.insert(0, ("warning", f"the loss ended above its start, {summary['initial_loss']:.4g}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
