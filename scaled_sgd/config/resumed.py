"""The configuration of the run or checkpoint that ``run.resume`` names, and the code that it names."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaled_sgd.config.keys import KEYS
from scaled_sgd.config.sections import Decides
from scaled_sgd.config.stored import FORMER, completed
from scaled_sgd.config.values import shown
from scaled_sgd.config.yaml_files import read_yaml
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.text import is_plain_name

BUILT_IN_METRICS: Mapping[str, str] = {
    "accuracy": "classification",
    "mse": "regression",
    "r2": "regression",
}
"""Metrics that are part of this package, with their task; any other is code."""

_CODE = ("run.plugins", "run.metrics", "optim.optimizer")


def _is_code(key: str, name: object) -> bool:
    """Whether a value names code that is not part of this package or of torch.optim."""
    if key == "run.metrics":
        return isinstance(name, str) and name not in BUILT_IN_METRICS
    return key == "run.plugins" or ("." in str(name) and not str(name).startswith("torch.optim."))


def run_of(checkpoint: Path) -> Path | None:
    """The run directory of a checkpoint, spelt like the checkpoint's path; None if there is none."""
    run = checkpoint.resolve().parent.parent
    if checkpoint.resolve().parent.name != "checkpoints" or not (run / "config.yaml").is_file():
        return None
    spelt = Path(os.path.normpath(checkpoint / ".." / ".."))
    return spelt if spelt.resolve() == run else run


def resumed_files(path: str) -> tuple[Path | None, Path | None]:
    """The ``config.yaml`` of the run at or above a path, and the ``state.json`` if it is a checkpoint."""
    place = Path(path)
    if (place / "manifest.json").is_file():
        run = run_of(place)
        return (None if run is None else run / "config.yaml"), place / "state.json"
    return (place / "config.yaml" if (place / "config.yaml").is_file() else None), None


def of_checkpoint(state: Path) -> dict[str, Any]:
    """What decided a checkpoint's weights and records, by dotted key, from its ``state.json``.

    A run may have continued with other values. A file that cannot be read gives nothing: the checkpoint is
    refused when it is opened.
    """
    try:
        values = completed(json.loads(state.read_bytes())["config"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: value
        for name, value in values.items()
        if name in KEYS and KEYS[name].decides is not Decides.NOTHING
    }


def place_of(config: Path) -> dict[str, Any]:
    """Name and parent of a run directory as it lies now, whatever its ``config.yaml`` says."""
    folder = config.parent if config.parent.name not in ("", "..") else config.parent.resolve()
    name = folder.name if is_plain_name(folder.name) else None
    return {"run.dir": str(folder.parent), "run.name": name}


def of_named_run(own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Values of the run that ``run.resume auto`` continues, for keys whose default has changed since.

    Args:
        own: values that the user gave, in files or options; they override these.
    """
    given = {name: value for source in own for name, value in source.items()}
    name = given.get("run.name")
    if given.get("run.resume") != "auto" or not is_plain_name(str(name)):
        return {}
    try:
        values = completed(read_yaml(Path(str(given.get("run.dir", "runs")), str(name), "config.yaml")))
    except (UserError, OSError):
        return {}
    return {key: values[key] for key in FORMER if key not in given}


def code_of(values: Mapping[str, Any]) -> list[str]:
    """Names of code in values by dotted key."""
    lists = [values[key] for key in _CODE if isinstance(values.get(key), list)]
    return [name for names in lists for name in names if name not in BUILT_IN_METRICS]


def refuse_foreign_code(
    stored: Mapping[str, Any], own: Sequence[Mapping[str, Any]], accepted: Sequence[str]
) -> None:
    """Refuse code that only a stored configuration names.

    Args:
        stored: values by dotted key, from the folder of a run or a study.
        own: values that the user gave, in files or options.
        accepted: names in ``run.accept_code``.

    Raises:
        UserError: names the first such code.
    """
    for key in _CODE:
        if key not in stored or any(key in source for source in own):
            continue
        named = stored[key] if isinstance(stored[key], list) else [stored[key]]
        for name in named:
            if name is None or name in accepted or not _is_code(key, name):
                continue
            raise UserError(
                f"{key}: {shown(name)} is code that only the stored configuration names; allowed: code that "
                f"is given as {key}, or named in run.accept_code"
            )
