"""A layer under ``os`` that stops at a chosen operation or byte, with what a power cut would lose."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

COUNTED = ("open", "write", "fsync", "rename", "mkdir", "unlink", "rmdir")


class Faults:
    """Counts the file operations of this process and ends it, or fails, at number ``at``.

    A write at that number first puts a random part of its bytes. With ``power`` the process does not
    just die: of bytes, new names and renames that were not flushed, random ones are lost too.
    """

    def __init__(self, at: int, *, seed: int = 0, power: bool = False, failure: BaseException | None = None):
        self.at = at
        self.count = 0
        self.power = power
        self.failure = failure
        self.random = random.Random(seed)
        self.real: dict[str, Callable[..., Any]] = {}
        self.paths: dict[int, Path] = {}
        self.flushed: dict[Path, int] = {}
        self.created: list[Path] = []
        self.renamed: list[tuple[Path, Path]] = []

    def __enter__(self) -> "Faults":
        for name in COUNTED:
            self.real[name] = getattr(os, name)
            setattr(os, name, self._counted(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self.real.items():
            setattr(os, name, function)

    def _counted(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                if self.failure is not None:
                    raise self.failure
                self._die(name, args)
            result = self.real[name](*args, **options)
            if not options:
                self._note(name, args, result)
            return result

        return call

    def _note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        if name == "open":
            self.paths[result] = Path(args[0])
            if args[1] & os.O_CREAT:
                self.created.append(Path(args[0]))
                self.flushed[Path(args[0])] = 0
        elif name == "mkdir":
            self.created.append(Path(args[0]))
        elif name == "rename":
            source, target = Path(args[0]), Path(args[1])
            self.renamed.append((source, target))
            self.created = [_moved(p, source, target) for p in self.created]
            self.flushed = {_moved(p, source, target): size for p, size in self.flushed.items()}
        elif name == "fsync":
            path = self.paths[args[0]]
            if path.is_dir():
                self.created = [p for p in self.created if p.parent != path]
                self.renamed = [pair for pair in self.renamed if pair[0].parent != path]
            else:
                self.flushed[path] = path.stat().st_size

    def _die(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "write":
            self.real["write"](args[0], args[1][: self.random.randrange(len(args[1]) + 1)])
        if self.power:
            self._lose()
        os.kill(os.getpid(), signal.SIGKILL)

    def _lose(self) -> None:
        for path, size in self.flushed.items():
            if path.exists():
                os.truncate(path, self.random.randint(size, path.stat().st_size))
        for path in reversed(self.created):
            if path.is_file() and self.random.random() < 0.5:
                self.real["unlink"](path)
        # A journal loses the last of its entries, never one before another that it kept.
        lost = self.random.randrange(len(self.renamed) + 1)
        for source, target in list(reversed(self.renamed))[:lost]:
            self.real["rename"](target, source)


def _moved(path: Path, source: Path, target: Path) -> Path:
    return target / path.relative_to(source) if path.is_relative_to(source) else path
