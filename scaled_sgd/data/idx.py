"""IDX files, as MNIST and its relatives come: ``train-images-idx3-ubyte.gz``, ``train-labels-idx1-ubyte.gz``.

Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database, "File formats".
"""

import gzip
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scaled_sgd.core.errors import UserError

NAME = re.compile(r"(?P<part>.*?)[-_.]?(?P<holds>images|labels)[-.]idx[13]-ubyte(\.gz)?")
_UNSIGNED_BYTES = 8


def read_idx(path: Path, *, streaming: bool) -> Mapping[str, Any]:
    """The splits of a folder, where ``t10k`` is ``test``; or the images in one file, as ``train``.

    Columns: ``pixels``, lists of height · width integers from 0 to 255, and ``label``.

    Raises:
        UserError: the files are to be streamed.
        ValueError: a file is damaged, or its partner is missing or of another length.
    """
    if streaming:
        raise UserError("data.streaming: true does not fit IDX files, held in memory; allowed: false")
    if path.is_file():
        return {"train": _split(_parts(path.parent)[_part(path)] | {"images": path})}
    splits: dict[str, Any] = {}
    for part, files in _parts(path).items():
        if "images" not in files:
            continue
        name = re.split("[-_.]", part)[-1]
        name = "test" if name == "t10k" else name or "train"
        if name in splits:
            raise ValueError(f"it holds several data sets, such as {files['images'].name!r}")
        splits[name] = _split(files)
    return splits


def _part(path: Path) -> str:
    found = NAME.fullmatch(path.name)
    if found is None:
        raise ValueError("its name is not like 'train-images-idx3-ubyte'")
    return found["part"]


def _parts(folder: Path) -> dict[str, dict[str, Path]]:
    """The files of images and labels for each beginning of their names; unpacked ones before packed ones."""
    parts: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir(), reverse=True):
        found = NAME.fullmatch(file.name)
        if found is not None and file.is_file():
            parts.setdefault(found["part"], {})[found["holds"]] = file
    return parts


def _split(files: dict[str, Path]) -> Any:
    import datasets
    import pyarrow as pa

    if "labels" not in files:
        raise ValueError(f"there are no labels for {files['images'].name!r}")
    images, labels = _array(files["images"], 3), _array(files["labels"], 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{files['images'].name!r} holds {len(images):,} images, {files['labels'].name!r} "
            f"{len(labels):,} labels"
        )
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), math.prod(images.shape[1:]))
    table = pa.table({"pixels": pixels, "label": pa.array(labels)})
    # Without a fingerprint the whole table is hashed.
    return datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint="idx")


def _array(file: Path, dimensions: int) -> Any:
    """Unsigned bytes in an array of ``dimensions``."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        head = stream.read(4 + 4 * dimensions)
        if head[:4] != bytes((0, 0, _UNSIGNED_BYTES, dimensions)):
            raise ValueError(
                f"{file.name!r} begins with {head[:4].hex() or 'nothing'}; allowed: 0000080{dimensions}"
            )
        shape = tuple(int.from_bytes(head[i : i + 4], "big") for i in range(4, len(head), 4))
        size = math.prod(shape)
        # By pieces: a few bytes can claim more than fits into memory.
        content = bytearray()
        while len(content) <= size and (piece := stream.read(1 << 24)):
            content += piece
    if len(shape) < dimensions or len(content) != size:
        raise ValueError(f"{file.name!r} is cut off or too long: it claims {size:,} values of {shape}")
    if not size:
        raise ValueError(f"{file.name!r} holds nothing")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
