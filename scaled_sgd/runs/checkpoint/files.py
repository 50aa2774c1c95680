"""Writes files durably: they are on the disk on return. Also computes their manifest entries."""

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scaled_sgd.runs.checkpoint.dtypes import code_of

_CHUNK = 1 << 24
"""Bytes that are hashed and written at a time."""


@dataclass(frozen=True)
class FileFacts:
    """The manifest entry of a file.

    Attributes:
        size: size in bytes.
        sha256: digest of the contents, in hexadecimal.
    """

    size: int
    sha256: str


def write_file(path: Path, blocks: Iterable[bytes | memoryview]) -> FileFacts:
    """Write a new file and flush it to the disk.

    Raises:
        OSError: with ``path`` as its file name.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            for block in blocks:
                for start in range(0, len(block), _CHUNK):
                    chunk = memoryview(block)[start : start + _CHUNK]
                    digest.update(chunk)
                    size += len(chunk)
                    while chunk:
                        chunk = chunk[os.write(descriptor, chunk) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return FileFacts(size, digest.hexdigest())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileFacts:
    """Write a safetensors file tensor by tensor, so that at most one is copied at a time.

    The format is the length of the header (8 bytes), the header (JSON, padded to 8 bytes), the numbers.
    The safetensors library needs all tensors on the CPU at once and does not report where it fails.

    Raises:
        OSError: with ``path`` as its file name.
        ValueError: the dtype of a tensor is not supported.
    """
    return write_file(path, _blocks(tensors))


def _blocks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    # Widest dtypes first, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    yield header((key, t.dtype, t.shape) for key, t in ordered)
    for _, tensor in ordered:
        yield content(tensor)


def header(tensors: Iterable[tuple[str, torch.dtype, Sequence[int]]]) -> bytes:
    """The beginning of a safetensors file, before the numbers of ``tensors``: name, dtype, shape."""
    position, entries = 0, {}
    for key, dtype, shape in tensors:
        start, position = position, position + math.prod(shape) * dtype.itemsize
        entries[key] = {"dtype": code_of(dtype), "shape": list(shape), "data_offsets": [start, position]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def content(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as they stand in a safetensors file."""
    flat = tensor.detach().reshape(-1).to("cpu").contiguous()
    return flat.view(torch.uint8).numpy().data


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, if the file system supports it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
