"""Identifies data files: by what the file system says of them, and by their contents."""

import hashlib
import os
from collections.abc import Iterable


def stamp(files: Iterable[str]) -> str:
    """16 hexadecimal digits that change when a file is rewritten or replaced, even with its old times.

    Tools that keep the time of modification cannot keep that of the change (ctime). What is no local file,
    such as an address on a hub, counts by its name, which holds its revision.
    """
    facts = [(file, *_facts(file)) for file in files]
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def _facts(file: str) -> tuple[int, ...]:
    if not os.path.exists(file):
        return ()
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def digest(files: Iterable[str]) -> str:
    """32 hexadecimal digits of the contents of files, in their order, wherever they are."""
    import xxhash  # ten times as fast as the hashes of hashlib, so that reading is what takes time

    together = xxhash.xxh3_128()
    for file in files:
        if not os.path.exists(file):
            together.update(file.encode())
            continue
        with open(file, "rb") as stream:
            while chunk := stream.read(1 << 20):
                together.update(chunk)
        together.update(b"\0end")
    return together.hexdigest()
