"""Folders of runs and studies with a few wrong bytes, values, names and kinds of files."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, -(10**400), 1e308, float("nan"), float("inf"), "", "7",
    "../../outside/precious", "\x1b[2J\n\u202e", "\ud800", "=1+1", "x" * 3000,
    [], {}, [[]], {"a": {"b": 1}}, [None] * 3,
)  # fmt: skip
DEEP = "[" * 50_000 + "]" * 50_000
"""JSON that nests deeper than a parser can follow."""


def mutate(folder: Path, chance: Random, outside: Path) -> str:
    """Change one file or folder below ``folder``; returns what was done."""
    if chance.random() < 0.1:
        return _folder(folder, chance, outside)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return "nothing"
    path = chance.choice(files)
    kinds: list[Callable[[Path, Random, Path], None]] = [_bytes, _kind]
    if path.suffix in (".json", ".jsonl"):
        kinds += [_value] * 4
    if path.suffix == ".yaml":
        kinds += [_yaml_value] * 4
    change = chance.choice(kinds)
    try:
        change(path, chance, outside)
    except (ValueError, RecursionError, yaml.YAMLError):
        _bytes(path, chance, outside)
    if path.name != "manifest.json" and chance.random() < 0.9:
        make_true(path)
    return f"{change.__name__} {path.relative_to(folder)}"


def _bytes(path: Path, chance: Random, _outside: Path) -> None:
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content) + 1)
    kind = chance.randrange(4)
    if kind == 0:
        del content[place:]
    elif kind == 1:
        content[place:place] = chance.randbytes(chance.randrange(1, 9))
    elif kind == 2 and content:
        content[min(place, len(content) - 1)] ^= 1 << chance.randrange(8)
    else:
        del content[place : place + chance.randrange(1, 40)]
    path.write_bytes(content)


def _kind(path: Path, chance: Random, outside: Path) -> None:
    """The same name for nothing, a folder, a pipe or a link."""
    path.unlink()
    kind = chance.randrange(6)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to("/dev/zero")
    elif kind < 5:
        path.symlink_to(outside / "precious")


def _folder(folder: Path, chance: Random, outside: Path) -> str:
    """A link to the copy that :func:`stock` made in the place of a folder."""
    folders = [path for path in sorted(folder.rglob("*")) if path.is_dir() and not path.is_symlink()]
    if not folders:
        return "nothing"
    path = chance.choice(folders)
    shutil.rmtree(path)
    path.symlink_to(outside / path.name)
    return f"_folder {path.relative_to(folder)}"


def _value(path: Path, chance: Random, _outside: Path) -> None:
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    if not lines:
        return
    place = chance.randrange(len(lines))
    if chance.random() < 0.05:
        lines[place] = '{"step": 0, "id": ' + DEEP + "}"
    else:
        lines[place] = json.dumps(_changed(json.loads(lines[place]), chance))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _yaml_value(path: Path, chance: Random, _outside: Path) -> None:
    text = yaml.safe_dump(_changed(yaml.safe_load(path.read_text()), chance), allow_unicode=False)
    if chance.random() < 0.1:
        text += "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def _changed(value: Any, chance: Random) -> Any:
    """The value with one of its parts replaced, removed, or with a part more."""
    places = list(_places(value))
    if not places:
        return chance.choice(HOSTILE)
    holder, key = chance.choice(places)
    kind = chance.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        name = chance.choice(("id", "status", "config", "optim.lr", "\x1b[1m", "\ud800", "a.b", ""))
        holder[name] = chance.choice(HOSTILE)
    else:
        holder[key] = chance.choice(HOSTILE)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


def make_true(path: Path) -> None:
    """Let the manifest beside ``path``, if any, have the checksums of the changed file and of itself."""
    manifest = path.parent / "manifest.json"
    if not manifest.is_file():
        return
    try:
        body = json.loads(manifest.read_text())
        content = b"" if path.is_symlink() or path.is_fifo() else path.read_bytes()
        body["files"][path.name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        body.pop("sha256")
        text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        manifest.write_text(json.dumps(body | {"sha256": hashlib.sha256(text).hexdigest()}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return


def state_of(folder: Path) -> dict[str, str]:
    """Every file, link and folder below a folder, with its contents."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = os.readlink(path) if path.is_symlink() else ""
        is_file = path.is_file() and not path.is_symlink()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else "folder"
        found[str(path.relative_to(folder))] = kind or content
    return found


def stock(outside: Path, whole: Path) -> dict[str, str]:
    """Put a file and a copy of each folder in ``whole`` where links lead; returns the state of all."""
    outside.mkdir()
    (outside / "precious").write_text('{"step": 0, "loss": 1.0}\nsecond line\n')
    for path in [path for path in whole.rglob("*") if path.is_dir()]:
        shutil.copytree(path, outside / path.name)
    return state_of(outside)


def copied(source: Path, target: Path) -> Path:
    """A fresh copy of a folder."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target
