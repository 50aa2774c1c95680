"""Opens the splits of `data.source`: local files and folders first, then the Hugging Face hub."""

import importlib.util
import logging
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from scaled_sgd.core.errors import UserError
from scaled_sgd.data.formats import FORMATS, allowed, check_header
from scaled_sgd.data.hub import hub_is_reachable, offline
from scaled_sgd.data.reading import reading

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def open_source(source: str, *, streaming: bool, quiet: bool) -> dict[str, Any]:
    """Splits of a source by name: `datasets.Dataset`, or `IterableDataset` when streaming.

    `quiet` switches progress bars off.

    Raises:
        UserError: The source does not exist, cannot be read, or is on a hub that does not answer.
    """
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"data.source: {source!r} needs the package 'datasets'; allowed without it: digits")
    datasets = importlib.import_module("datasets")
    datasets.logging.set_verbosity(logging.CRITICAL)  # the readers also log what they raise
    if quiet or not sys.stderr.isatty():
        datasets.disable_progress_bars()
    # os.path, unlike pathlib, raises nothing for a name that is too long or holds a NUL or unknown ~user.
    path = Path(os.path.expanduser(source))
    if source and os.path.exists(path):
        return _local(path.resolve(), source, streaming)
    if source.startswith((".", "/", "~")) or path.suffix in FORMATS:
        raise UserError(
            f"data.source: no file or folder {source!r}; allowed: a local file or folder, a hub name, digits"
        )
    if not HUB_NAME.fullmatch(source):
        raise UserError(
            f"data.source: {source!r} is no file, folder or hub name; allowed: one of them ('owner/name')"
        )
    return _hub(source, streaming)


def _local(path: Path, source: str, streaming: bool) -> dict[str, Any]:
    import datasets

    if path.is_file() and path.suffix not in FORMATS:
        raise UserError(f"data.source: {source!r} is of another kind; allowed: {allowed()}")
    with reading("data.source", repr(source)):
        for file in sorted(path.rglob("*.csv")) if path.is_dir() else ():
            check_header(file)
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            saved = datasets.load_from_disk(str(path))
            splits = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
            return {k: v.to_iterable_dataset() for k, v in splits.items()} if streaming else dict(splits)
        if path.is_dir():
            return dict(datasets.load_dataset(str(path), streaming=streaming))
        return FORMATS[path.suffix].splits(path, streaming=streaming)


def _hub(name: str, streaming: bool) -> dict[str, Any]:
    import datasets
    from huggingface_hub import constants

    reachable = hub_is_reachable()
    why = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
    switches = ((datasets.config, "HF_HUB_OFFLINE"), (constants, "HF_HUB_OFFLINE"))
    with reading("data.source", repr(name)), nullcontext() if reachable else offline(*switches):
        try:
            return dict(datasets.load_dataset(name, streaming=streaming))
        except ConnectionError as error:
            raise UserError(
                f"data.source: cannot reach the Hugging Face hub for {name!r}{why}; "
                "allowed without it: a local parquet, CSV or JSON file or a save_to_disk folder"
            ) from error
