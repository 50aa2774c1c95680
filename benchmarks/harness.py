"""Side-by-side timing and its record: candidates take turns, so that a busy machine slows all alike."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

Candidates = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class Figure:
    """A number of a table.

    Attributes:
        value: what was measured, mostly a ratio.
        seconds: median time behind it, where it is one of time.
        most: target that it should not exceed.
        least: target that it should reach.
    """

    value: float
    seconds: float | None = None
    most: float | None = None
    least: float | None = None

    def __str__(self) -> str:
        words = f"{self.value:10.3f}"
        if self.seconds is not None:
            words += f"  {1e3 * self.seconds:10.2f} ms"
        if self.most is not None:
            words += f"  target ≤ {self.most:g}{'' if self.value <= self.most else ', missed'}"
        if self.least is not None:
            words += f"  target ≥ {self.least:g}{'' if self.value >= self.least else ', missed'}"
        return words


@dataclass
class Report:
    """Tables of one benchmark, printed as they come.

    Attributes:
        benchmark: its name.
        limit: what its ratios are over.
    """

    benchmark: str
    limit: str
    tables: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: Mapping[str, Any], figures: Mapping[str, Figure]) -> None:
        """One case: its shapes and settings, and what was measured."""
        words = ", ".join(f"{key} {value}" for key, value in case.items())
        print(f"\n{self.benchmark}, over {self.limit}: {words}")
        width = max(map(len, figures), default=0)
        for name, figure in figures.items():
            print(f"  {name:<{width}}{figure}", flush=True)
        rows = {name: {k: v for k, v in asdict(f).items() if v is not None} for name, f in figures.items()}
        self.tables.append({"case": dict(case), "figures": rows})

    def write(self, path: str | None) -> None:
        """Write all of it as JSON, with the machine it was measured on; nothing when ``path`` is None."""
        if path is not None:
            found = {
                "benchmark": self.benchmark,
                "limit": self.limit,
                "machine": machine(),
                "tables": self.tables,
            }
            write_json(path, found)


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def write_json(path: str | None, results: Any) -> None:
    """Write the results where asked, nothing when ``path`` is None."""
    if path is not None:
        Path(path).write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def paired(candidates: Candidates, *, unit: str, rounds: int = 15) -> dict[str, Figure]:
    """Median over rounds of each candidate's time over that of ``unit`` in the same round.

    Slow changes of the machine's speed cancel within a round; the order alternates, so that none gains
    from its place.
    """
    names = list(candidates)
    for name in names:
        candidates[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            start = time.perf_counter()
            candidates[name]()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: Figure(
            statistics.median(own / other for own, other in zip(times, seconds[unit], strict=True)),
            statistics.median(times),
        )
        for name, times in seconds.items()
    }
