"""The memory that the planner predicts for the steps of a study's runs."""

import json
from typing import Any

import pandas as pd

from scaled_sgd.config.parsing import from_dict
from scaled_sgd.planning import Workload, nominal, predict

_SECTIONS = ("model", "optim", "scaling")


def step_bytes(row: pd.Series) -> float:
    """Peak of a fused step on one process: weights, optimizer, signals; of a row of the table of runs."""
    sections: dict[str, Any] = {"loss": row["config.loss"]}
    for name, value in row.items():
        _, *path = str(name).split(".")
        if str(name).startswith("config.") and path[0] in _SECTIONS and not _is_missing(value):
            *groups, key = path
            section = sections
            for group in groups:
                section = section.setdefault(group, {})
            # Lists are JSON text in the table.
            listed = isinstance(value, str) and value.startswith("[")
            section[key] = json.loads(value) if listed else value
    widths = json.loads(row["widths"])
    work = Workload.of(from_dict(sections), widths[0], widths[-1])
    return predict("ddp", work, nominal("cpu"), fused=True).peak_bytes


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or value != value
