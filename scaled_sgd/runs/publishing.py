"""Writes ``model/`` of a run that ended: the network with all that a prediction needs, and its card."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scaled_sgd.config import Config, as_dict
from scaled_sgd.core.errors import UserError, printable
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.data import Data
from scaled_sgd.runs.curve import loss_curve
from scaled_sgd.runs.pretrained import CARD, FIGURE, network_kind, save

_TOLD = ("model", "optim", "scaling", "data", "loss")
_FACTS = (
    "steps",
    "seconds",
    "seed",
    "sizes",
    "world_size",
    "strategy",
    "device",
    "git_revision",
    "parameters",
)


def write_model(
    folder: Path,
    network: HomogeneousMLP,
    layers: Iterable[Tensor],
    config: Config,
    data: Data,
    summary: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
) -> None:
    """Write the folder.

    Args:
        folder: ``model/`` of the run directory.
        network: the architecture; its weights may be sharded.
        layers: W_1..W_l, flat, taken one at a time.
        config: resolved.
        data: the data it was trained on.
        summary: as in ``summary.json``.
        rows: of ``metrics.jsonl``.

    Raises:
        OSError: it cannot be written.
    """
    settings = as_dict(config)
    figures = {name: value for name, value in summary.items() if type(value) is float and name != "seconds"}
    facts = {
        "centered": config.model.centered,
        "loss": config.loss,
        "pipeline": data.pipeline.as_dict(),
        "versions": summary["versions"],
        "training": {name: summary.get(name) for name in _FACTS} | {"figures": figures},
        "configuration": {name: settings[name] for name in _TOLD},
    }
    try:
        curve = loss_curve(rows)
    except UserError:  # a damaged metrics.jsonl, which the trained network does not need
        curve = None
    texts = {CARD: _card(folder, network_kind(network), data, summary, figures, curve)} | (
        {} if curve is None else {FIGURE: curve}
    )
    save(folder, network, layers=layers, facts=facts, texts=texts)


def _card(
    folder: Path,
    kind: str,
    data: Data,
    summary: Mapping[str, Any],
    figures: Mapping[str, float],
    curve: str | None,
) -> str:
    """The model card, with texts of the data on one line."""
    rows = "\n".join(f"| {printable(name)} | {value:.6g} |" for name, value in figures.items())
    table = f"| figure | value |\n| --- | --- |\n{rows}\n" if rows else ""
    trained = "for" if summary["status"] == "finished" else "and interrupted after"
    name = printable(folder.absolute().parent.name)
    return f"""---
library_name: scaled_sgd
tags: [scaled_sgd]
---

# {name}

A {kind} of widths {" × ".join(map(str, summary["widths"]))}
({summary["parameters"]:,} weights), trained with `scaled_sgd` {trained} {summary["steps"]:,} steps.

Data: {data.describe().replace("<", "&lt;")}.

{table}{"" if curve is None else f"{chr(10)}![Loss over steps]({FIGURE}){chr(10)}"}
```python
from scaled_sgd import load_run

run = load_run("{name}")
print(run.predict("new.csv").values)
```

`config.json` has the pipeline from columns to inputs, the configuration and the versions. To repeat the
run, give its `config.yaml`: `scaled-sgd train --config config.yaml --run.name again`.
"""
