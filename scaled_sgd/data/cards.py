"""Refuses a folder that points to data elsewhere."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from scaled_sgd.core.errors import UserError


def check_card(folder: Path) -> None:
    """Refuse patterns of ``data_files`` that leave ``folder``: readers would fetch an address without asking.

    Raises:
        UserError: names the first.
    """
    from huggingface_hub import DatasetCard

    described: list[Any] = []
    # Read as the reader of the folder will: another parser might see another description.
    if (folder / "README.md").is_file():
        described.append(DatasetCard.load(folder / "README.md").data.to_dict())
    if (folder / ".huggingface.yaml").is_file():
        described.append(yaml.safe_load((folder / ".huggingface.yaml").read_text(encoding="utf-8")))
    for pattern in (found for value in described for found in _texts(value, set(), False)):
        if "://" in pattern or "::" in pattern or os.path.isabs(pattern) or ".." in Path(pattern).parts:
            raise _elsewhere(folder, pattern)


def check_files(folder: Path, files: Iterable[str]) -> None:
    """Refuse files outside ``folder``, where the state of a ``save_to_disk`` folder may point.

    Raises:
        UserError: names the first.
    """
    for file in files:
        if not Path(os.path.normpath(file)).is_relative_to(folder):
            raise _elsewhere(folder, file)


def _elsewhere(folder: Path, data: str) -> UserError:
    return UserError(
        f"data.source: {folder.name!r} says that its data are {data!r}; allowed: files inside it"
    )


def _texts(value: Any, seen: set[int], inside: bool) -> Iterator[str]:
    """Texts at any depth below a key ``data_files`` or ``data_dir``; each part that an alias repeats once."""
    if isinstance(value, str):
        if inside:
            yield value
    elif isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(part, seen, inside or key in ("data_files", "data_dir"))
