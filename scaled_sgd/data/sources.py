"""Opens the splits of `data.source`: local files and folders first, then the Hugging Face hub."""

import glob
import importlib.util
import logging
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path

from scaled_sgd.core.errors import UserError
from scaled_sgd.data.cards import check_card, check_files
from scaled_sgd.data.dialect import Asked
from scaled_sgd.data.formats import FORMATS, allowed, format_of
from scaled_sgd.data.given import GIVEN
from scaled_sgd.data.hub import hub_is_reachable, offline
from scaled_sgd.data.prepared import Prepared, prepare
from scaled_sgd.data.reading import reading

_ANY = Asked()
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def open_source(source: str, *, streaming: bool, quiet: bool, asked: Asked = _ANY) -> Prepared:
    """The splits of a source.

    Args:
        source: as configured.
        streaming: read while training.
        quiet: switch progress bars off.
        asked: of CSV files.

    Raises:
        UserError: The source does not exist, cannot be read, or is on a hub that does not answer.
    """
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"data.source: {source!r} needs the package 'datasets'; allowed without it: digits")
    datasets = importlib.import_module("datasets")
    datasets.logging.set_verbosity(logging.CRITICAL)  # the readers also log what they raise
    if quiet or not sys.stderr.isatty():
        datasets.disable_progress_bars()
    if source == GIVEN:
        raise UserError(
            f"data.source: {source!r} are data given in Python; allowed: scaled_sgd.train.train(…, data=…)"
        )
    # os.path, unlike pathlib, raises nothing for a name that is too long or holds a NUL or unknown ~user.
    path = Path(os.path.expanduser(source))
    if source and os.path.exists(path):
        return _local(path.resolve(), source, streaming, asked)
    if source.startswith((".", "/", "~")) or path.name.endswith(FORMATS.names):
        raise UserError(
            f"data.source: no file or folder {source!r}; allowed: a local file or folder, a hub name, digits"
        )
    if not HUB_NAME.fullmatch(source):
        raise UserError(
            f"data.source: {source!r} is no file, folder or hub name; allowed: one of them ('owner/name')"
        )
    return _hub(source, streaming, asked)


def _local(path: Path, source: str, streaming: bool, asked: Asked) -> Prepared:
    import datasets

    form = format_of(path)
    if path.is_file() and form is None:
        raise UserError(f"data.source: {source!r} is of another kind; allowed: {allowed()}")
    folders = (f"{path if path.is_dir() else path.parent}{os.sep}",)
    with reading("data.source", repr(source)):
        if form is not None and form.builder is not None:
            files = glob.escape(str(path))
            return prepare(form.builder, data_files=files, folders=folders, streaming=streaming, asked=asked)
        if form is not None:
            splits = form.splits(path, streaming=streaming)
            held_out = form.held_out if form.held_out in splits else None
            return Prepared(splits, dict.fromkeys(splits, (str(path),)), folders, held_out)
        check_card(path)
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            saved = datasets.load_from_disk(str(path))
            splits = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
            saved_files = {
                name: tuple(file["filename"] for file in split.cache_files) for name, split in splits.items()
            }
            check_files(path, (file for found in saved_files.values() for file in found))
            if streaming:
                splits = {name: split.to_iterable_dataset() for name, split in splits.items()}
            return Prepared(dict(splits), saved_files, folders)
        return prepare(str(path), folders=folders, streaming=streaming, asked=asked)


def _hub(name: str, streaming: bool, asked: Asked) -> Prepared:
    import datasets
    from huggingface_hub import constants

    reachable = hub_is_reachable()
    why = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
    switches = ((datasets.config, "HF_HUB_OFFLINE"), (constants, "HF_HUB_OFFLINE"))
    caches = (
        datasets.config.HF_DATASETS_CACHE,
        datasets.config.DOWNLOADED_DATASETS_PATH,
        constants.HF_HUB_CACHE,
    )
    folders = (*(f"{cache}{os.sep}" for cache in caches), f"hf://datasets/{name}@")
    with reading("data.source", repr(name)), nullcontext() if reachable else offline(*switches):
        try:
            return prepare(name, folders=folders, streaming=streaming, asked=asked)
        except ConnectionError as error:
            raise UserError(
                f"data.source: cannot reach the Hugging Face hub for {name!r}{why}; "
                "allowed without it: a local parquet, CSV or JSON file or a save_to_disk folder"
            ) from error
