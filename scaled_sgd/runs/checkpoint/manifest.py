"""The manifest of a checkpoint, written last: anything that deviates from it is damaged."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scaled_sgd.runs.checkpoint.dtypes import DTYPES
from scaled_sgd.runs.checkpoint.files import FileFacts
from scaled_sgd.runs.checkpoint.pieces import Extent, Layout

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"


class Damage(ValueError):
    """A short reason why a checkpoint is not intact."""


@dataclass(frozen=True)
class Manifest:
    """The contents of a checkpoint.

    Attributes:
        step: number of steps taken.
        world_size: number of ranks that wrote it, one file each.
        files: facts about every file except the manifest, by name.
        tensors: layout of every tensor, by name; extents tile it.
    """

    step: int
    world_size: int
    files: Mapping[str, FileFacts]
    tensors: Mapping[str, Layout]


def rank_file(rank: int) -> str:
    """Name of a rank's file."""
    return f"rank-{rank}.safetensors"


def piece_key(name: str, start: int) -> str:
    """Key of an extent inside its file."""
    return f"pieces/{name}/{start}"


def private_key(name: str) -> str:
    """Key of a rank's private tensor inside its file."""
    return f"private/{name}"


def encode(manifest: Manifest) -> bytes:
    """A manifest as JSON, with its own digest."""
    body = {
        "format": FORMAT,
        "step": manifest.step,
        "world_size": manifest.world_size,
        "files": {name: asdict(facts) for name, facts in manifest.files.items()},
        "tensors": {
            name: {
                "shape": list(layout.shape),
                "dtype": layout.dtype,
                "extents": [
                    [e.start, e.stop, rank_file(e.rank), piece_key(name, e.start)] for e in layout.extents
                ],
            }
            for name, layout in manifest.tensors.items()
        },
    }
    return json.dumps(body | {"sha256": _digest(body)}).encode()


def decode(text: bytes) -> Manifest:
    """A manifest from untrusted JSON.

    Raises:
        Damage: it is not a manifest, is inconsistent, or names a file that no rank writes.
    """
    try:
        body = json.loads(text)
        claimed = body.pop("sha256")
        if type(body["format"]) is int and body["format"] != FORMAT:
            raise Damage(f"its format is {body['format']}, this version reads {FORMAT}")
        _check(claimed == _digest(body), "its manifest has another checksum than it says")
        step, world_size = _count(body["step"]), _count(body["world_size"])
        files = {name: _facts(facts) for name, facts in body["files"].items()}
        # Do not generate a billion names because a manifest claims a billion ranks.
        ranks = {rank_file(rank): rank for rank in range(min(world_size, len(files) + 1))}
        for name in files:
            _check(name == STATE or name in ranks, f"its manifest names the file {name!r}")
        for name in (*ranks, STATE):
            _check(name in files, f"its manifest of {world_size} ranks lacks {name}")
        _check(world_size > 0, "its manifest has no ranks")
        tensors = {name: _layout(name, entry, ranks) for name, entry in body["tensors"].items()}
    except Damage:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damage(f"{MANIFEST} is not a manifest") from error
    return Manifest(step, world_size, files, tensors)


def _layout(name: str, entry: Mapping[str, Any], ranks: Mapping[str, int]) -> Layout:
    shape = tuple(_count(size) for size in entry["shape"])
    total = math.prod(shape)
    _check(entry["dtype"] in DTYPES, f"its manifest has {name} of type {entry['dtype']!r}")
    extents = []
    position = 0
    for start, stop, file, key in entry["extents"]:
        _check(file in ranks, f"its manifest names the file {file!r}")
        _check(key == piece_key(name, _count(start)), f"its manifest has {name} under the key {key!r}")
        _check(
            start == position < _count(stop), f"its manifest has {name} with a gap or overlap at {position}"
        )
        extents.append(Extent(start, stop, ranks[file]))
        position = stop
    _check(position == total, f"its manifest has {position} of {total} numbers of {name}")
    return Layout(shape, entry["dtype"], tuple(extents))


def _facts(entry: Mapping[str, Any]) -> FileFacts:
    return FileFacts(_count(entry["size"]), str(entry["sha256"]))


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise Damage(f"its manifest has {value!r} where a count belongs")
    return value


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Damage(otherwise)


def _digest(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
