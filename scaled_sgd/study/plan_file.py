"""Reads the plan of a study, which may come from elsewhere."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from scaled_sgd.config import KEYS
from scaled_sgd.config.stored import renamed
from scaled_sgd.config.values import MisfitError, read
from scaled_sgd.config.yaml_files import load_plain
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.text import escaped, is_plain_name
from scaled_sgd.runs.own_files import read_file

_MOST_LEVELS = 8
"""Largest number of groups inside each other in a configuration."""


def read_plan(path: Path) -> list[dict[str, Any]]:
    """The planned runs: id, axes and configuration of each; texts on one line.

    Raises:
        UserError: there is no plan, or a line of it is no run.
    """
    try:
        text = read_file(path).decode()
    except OSError as error:
        raise UserError(
            f"study: cannot read {str(path)!r}: {error.strerror}; allowed: the folder of a study"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"study: {str(path)!r} is damaged: {error}; allowed: lines in UTF-8") from error
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entries.append(_entry(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
            raise UserError(
                f"study: line {number} of {str(path)!r} is damaged: {error}; allowed: id, axes, config"
            ) from error
    return entries


def _entry(line: Mapping[str, Any]) -> dict[str, Any]:
    if not is_plain_name(line["id"]):
        raise ValueError(f"the id {line['id']!r} is not a plain name")
    axes = {escaped(name): _label(name, value) for name, value in line["axes"].items()}
    if "id" in axes:
        raise ValueError("an axis is called id")
    return {"id": line["id"], "axes": axes, "config": _group(line["config"], "", _MOST_LEVELS)}


def _label(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) or any(isinstance(one, Mapping | list) for one in _entries(value)):
        raise ValueError(f"{name!r} has the label {_brief(value)}")
    if isinstance(value, str) and name in KEYS and not _fits(name, value):
        # Labels of lists are text.
        _check(name, load_plain(value))
    else:
        _check(name, value)
    return escaped(value) if isinstance(value, str) else value


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _group(values: Mapping[str, Any], prefix: str, levels: int) -> dict[str, Any]:
    if levels == 0:
        raise ValueError("the configuration nests too deeply")
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found[escaped(name)] = _group(value, f"{key}.", levels - 1)
            continue
        _check(*renamed(key, value, say=False))
        found[escaped(name)] = escaped(value) if isinstance(value, str) else value
    return found


def _check(key: str, value: Any) -> None:
    if not _fits(key, value):
        raise ValueError(f"{key} is {_brief(value)}")


def _fits(key: str, value: Any) -> bool:
    """Whether a value has the type of its key; names of what plugins add are not known here."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return False
    if key not in KEYS:
        return True
    try:
        read(KEYS[key].hint, value)
    except MisfitError:
        return isinstance(value, str | list)
    except TypeError:
        return False
    return True


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
