"""One row of a table of mistakes, and what the trainer makes of it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from scaled_sgd.train.main import main

QUICK = ("--optim.steps=2", "--model.base_width=2", "--model.depth=2")
Content = str | bytes | Callable[[Path], object]


@dataclass(frozen=True)
class Row:
    """Arguments and files that are a mistake, and its message, in which ``…`` stands for any text."""

    message: str
    arguments: tuple[str, ...] = ()
    files: Mapping[str, Content] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(self.arguments)[:60] or self.message[:60]


def write(files: Mapping[str, Content]) -> None:
    """Make files below the working folder."""
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")


def assert_refused(row: Row, capfd: pytest.CaptureFixture[str], *, started: bool = False) -> None:
    """The whole of what the row's command says is its message; status 2; nothing is left behind."""
    write(row.files)
    try:
        status = main([*QUICK, *row.arguments])
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    captured = capfd.readouterr()
    lines = captured.err.splitlines()
    if started:
        assert lines.pop(0).startswith("data: ")
        lines = [
            line for line in lines if not line.startswith(("step ", "optim.batch_size: 256 is more than"))
        ]
    assert len(lines) == 1, captured.err
    assert re.fullmatch(re.escape(f"error: {row.message}").replace("…", ".*"), lines[0]), lines[0]
    assert "allowed" in lines[0] or "did you mean" in lines[0]
    assert status == 2
    assert captured.out == ""
    assert started or not Path("runs").exists()
