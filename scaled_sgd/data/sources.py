"""From `data.source` to its splits: local files and folders first, then the Hugging Face hub."""

import importlib.util
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from scaled_sgd.data.hub import hub_is_reachable, offline
from scaled_sgd.errors import UserError

READERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def open_source(source: str, *, streaming: bool, quiet: bool) -> dict[str, Any]:
    """Splits of a source by name: `datasets.Dataset`, or `IterableDataset` when streaming.

    `quiet` switches progress bars off.

    Raises:
        UserError: The source does not exist, cannot be read, or is on a hub that does not answer.
    """
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"data.source: {source!r} needs the package 'datasets'; allowed without it: digits")
    if quiet or not sys.stderr.isatty():
        importlib.import_module("datasets").disable_progress_bars()
    path = Path(source).expanduser()
    if source and path.exists():
        return _local(path.resolve(), streaming)
    if source.startswith((".", "/", "~")) or path.suffix in READERS:
        raise UserError(
            f"data.source: no file or folder {source!r}; allowed: a local file or folder, a hub name, digits"
        )
    if not HUB_NAME.fullmatch(source):
        raise UserError(
            f"data.source: {source!r} is no file, folder or hub name; allowed: one of them ('owner/name')"
        )
    return _hub(source, streaming)


def _local(path: Path, streaming: bool) -> dict[str, Any]:
    import datasets

    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            saved = datasets.load_from_disk(str(path))
            splits = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
            return {k: v.to_iterable_dataset() for k, v in splits.items()} if streaming else dict(splits)
        if path.is_dir():
            return dict(datasets.load_dataset(str(path), streaming=streaming))
        if path.suffix in READERS:
            reader = READERS[path.suffix]
            return dict(datasets.load_dataset(reader, data_files=str(path), streaming=streaming))
    except Exception as error:
        raise _unreadable(str(path), error) from error
    raise UserError(f"data.source: cannot read {str(path)!r}; allowed: files ending in {', '.join(READERS)}")


def _hub(name: str, streaming: bool) -> dict[str, Any]:
    import datasets
    from huggingface_hub import constants

    reachable = hub_is_reachable()
    switches = ((datasets.config, "HF_HUB_OFFLINE"), (constants, "HF_HUB_OFFLINE"))
    try:
        with nullcontext() if reachable else offline(*switches):
            return dict(datasets.load_dataset(name, streaming=streaming))
    except ConnectionError as error:
        why = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        raise UserError(
            f"data.source: cannot reach the Hugging Face hub for {name!r}{why}; "
            "give a local parquet/CSV/JSON file or a save_to_disk folder instead"
        ) from error
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(source: str, error: Exception) -> UserError:
    """The root cause in one line: readers wrap it in a general error of their own."""
    cause = error.__cause__ or error
    reason = (str(cause) or type(cause).__name__).strip().splitlines()[0]
    return UserError(f"data.source: cannot read {source!r}: {reason}")
